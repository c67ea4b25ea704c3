"""A real browser, and small real runs, for the tests marked `browser`.

MOEJAX_CHROMIUM names the program; by default it is `chromium` on the PATH.
"""

import os
import shutil

import pytest
from helpers import programs
from helpers.browser import Visit, train

from moejax.cli import intervene


@pytest.fixture(scope='session')
def chromium():
  """The path of a browser; without one the tests are skipped."""
  path = os.environ.get('MOEJAX_CHROMIUM') or shutil.which('chromium')
  if not path:
    pytest.skip('no chromium here: apt-get install chromium')
  return path


@pytest.fixture(scope='session')
def browser(chromium):
  sync_api = pytest.importorskip('playwright.sync_api')
  with sync_api.sync_playwright() as playwright:
    # Containers have a small /dev/shm, and often run as root, for whom Chromium
    # has no sandbox.
    started = playwright.chromium.launch(
      executable_path=chromium,
      args=['--no-sandbox', '--disable-dev-shm-usage'],
    )
    yield started
    started.close()


@pytest.fixture
def visit(browser):
  """Opens an address, in a window of its own that has no network.

  visit(url, width=1280, scheme='light', offline=True)
  """
  contexts = []

  def opened(url, *, width=1280, scheme='light', offline=True):
    context = browser.new_context(
      viewport={'width': width, 'height': 900},
      color_scheme=scheme,
      offline=offline,
      reduced_motion='reduce',
    )
    contexts.append(context)
    one = Visit(context.new_page())
    one.page.goto(url)
    return one

  yield opened
  for context in contexts:
    context.close()


@pytest.fixture(scope='session')
def runs(tmp_path_factory):
  """Workdirs of two small real runs by name; tests do not change them.

  The first one has an intervention besides.
  """
  folder = tmp_path_factory.mktemp('runs')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('MOEJAX_CACHE', str(folder / 'cache'))
    with programs.kept(folder / 'compiled'):
      first = train(folder, 'first')
      values = '--what=mask_top', '--values=0,1/4'
      intervene.main([f'--workdir={first}', *values])
      second = train(folder, 'second', **{'--config.seed': '1'})
      yield {'first': first, 'second': second}
