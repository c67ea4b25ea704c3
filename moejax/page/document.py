"""The page as one file: sections, style, scripts and the plotting library.

The file needs no network, and its policy (Content-Security-Policy) forbids the
browser any: nothing in a report of a private run can leave the machine.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence

from moejax import __version__
from moejax.page import markup
from moejax.page.markup import Html, element

ASSETS = pathlib.Path(__file__).parent / 'assets'
# The cartesian bundle of plotly.js: lines, heat maps and bars. MIT.
PLOTLY = 'plotly-cartesian-4.1.1.min.js'
PLOTLY_SHA256 = (
  '79542150855a52c567260e3137095dbe2b744e6d702a5cabe67da246942fba7a'
)
SCRIPTS = (PLOTLY, 'plots.js', 'widgets.js')  # before the sections
START = 'theme.js'  # behind them
# At the end of a section, so that one that is put into the page later is drawn.
DRAW = Html(
  '<script>fillSection(document.currentScript.parentElement)</script>'
)
LEFT_OUT = 'left-out'
# 'self' lets a page that a local server gives ask that server again; of a page
# that is opened as a file it is nothing.
POLICY = (
  "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
  "img-src data: blob:; connect-src 'self'"
)


@dataclasses.dataclass(frozen=True)
class Page:
  """A page, whole and in sections.

  Attributes:
    html: the text of the whole file.
    sections: the element of each section, by its id, in order. A script at its
      end draws what is in it.
  """

  html: str
  sections: Mapping[str, str]


@functools.cache
def asset(name: str) -> str:
  """The text of a file in assets/."""
  return (ASSETS / name).read_text(encoding='utf-8')


def document(
  title: str,
  lead: str,
  sections: Sequence[tuple[str, str, Html]],
  left_out: Sequence[str],
  head: Html | None = None,
) -> Page:
  """The whole page.

  Args:
    title: heading of the page.
    lead: a line under it.
    sections: name (which becomes the id), heading and contents of each.
    left_out: a line for each section that is not on the page.
    head: further elements at the end of <head>.
  """
  links = [
    element('li', element('a', heading, href=f'#{name}'))
    for name, heading, _ in sections
  ]
  made = {section[0]: _section(*section) for section in sections}
  if left_out:
    made[LEFT_OUT] = _left_out(left_out)
  button = element('button', 'Dark colours', type='button', id='theme')
  contents = [
    element('a', 'Skip to the contents', class_='skip', href='#contents'),
    element(
      'div',
      element('nav', button, element('ul', *links), aria_label='Sections'),
      element(
        'header', element('h1', title), element('p', lead, class_='lead')
      ),
      element('main', *made.values(), id='contents'),
      element('footer', _colophon()),
      class_='frame',
    ),
    _script(asset(START)),
  ]
  top = [
    Html('<meta charset="utf-8">'),
    Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
    Html('<meta name="viewport" content="width=device-width">'),
    Html('<meta name="color-scheme" content="light dark">'),
    element('title', title),
    element('style', Html(asset('page.css'))),
    *(_script(asset(name)) for name in SCRIPTS),
    head,
  ]
  page = element(
    'html', element('head', *top), element('body', *contents), lang='en'
  )
  return Page(f'<!DOCTYPE html>\n{page}\n', made)


def _section(name: str, heading: str, contents: Html) -> Html:
  return element(
    'section',
    element('h2', heading, id=f'{name}-heading'),
    contents,
    DRAW,
    id=name,
    aria_labelledby=f'{name}-heading',
  )


def _left_out(lines: Sequence[str]) -> Html:
  """The lines on sections that are not there."""
  items = markup.joined(element('li', line) for line in lines)
  contents = element('ul', items, class_='left-out')
  return _section(LEFT_OUT, 'Not on this page', contents)


def _colophon() -> Html:
  text = f'Made by moejax {__version__}. Plots: plotly.js 4.1.1, MIT licence.'
  return element('p', text)


def _script(text: str) -> Html:
  """A script element. Its text, a file of the package, cannot end it."""
  inner = text.replace('</script', '<\\/script')
  return Html(f'<script>\n{inner}</script>')
