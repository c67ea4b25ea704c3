"""A page in a real browser, and runs to make pages of.

MOEJAX_SCREENSHOTS=folder writes pictures of pages there, to look at.
"""

import os
import pathlib

from helpers import own_text

SCREENSHOTS = os.environ.get('MOEJAX_SCREENSHOTS', '')
WIDTHS = {'wide': 1280, 'narrow': 390}


class Visit:
  """A page in the browser, and what went wrong on it.

  Attributes:
    page: playwright's page.
    problems: messages of the console but for plain logs, errors of scripts,
      and requests to a network.
  """

  def __init__(self, page):
    self.page = page
    self.problems = []
    self.requests = []
    page.on('console', self._console)
    page.on('pageerror', lambda error: self.problems.append(str(error)))
    page.on('request', lambda request: self.requests.append(request.url))

  def _console(self, message):
    if message.type in {'error', 'warning'}:
      self.problems.append(f'{message.type}: {message.text}')

  def network(self, allowed=('file:', 'data:', 'blob:')):
    """Requests that are not the page's own."""
    return [url for url in self.requests if not url.startswith(allowed)]

  def drawn(self):
    """Waits until every plot is drawn; returns how many there are."""
    figures = self.page.locator('figure.plot').count()
    # Not `wait_for_function`, whose `eval` the policy of the page forbids.
    root = self.page.locator(f'html[data-drawn="{figures}"]')
    root.wait_for(state='attached')
    return figures

  def picture(self, name):
    """Writes a picture of the whole page, if a folder for it is named."""
    if SCREENSHOTS:
      folder = pathlib.Path(SCREENSHOTS)
      folder.mkdir(parents=True, exist_ok=True)
      self.page.screenshot(path=folder / f'{name}.png', full_page=True)


# The load of experts at each step, for the slider, and traces at evaluations.
FLAGS = {
  '--config.report.trace_tokens': '2000',
  '--config.train.load_every': '1',
  '--config.model.num_layers': '2',
}


def train(folder, name, **flags):
  """Trains a small run below a folder; returns its workdir."""
  text = folder / 'stories.jsonl'
  if not text.exists():
    own_text.write_stories(text)
  workdir = folder / name
  ended = own_text.call(
    *own_text.flags(text, workdir),
    *(f'{key}={value}' for key, value in (FLAGS | flags).items()),
  )
  assert ended.code == 0, ended
  return workdir
