"""A region that is redrawn in a terminal whose width changes."""

import io

import pytest
import rich.console
import rich.text
from helpers.terminals import Terminal

from moejax.core import reflow
from moejax.run.screen import Screen

ROWS = ['step 12/20 ' + '=' * 60, 'short', '', 'layer 0 ' + '#' * 32]


class Pair:
  """A console, and the terminal that shows what it prints."""

  def __init__(self, width):
    self.terminal = Terminal(width)
    self.console = rich.console.Console(
      file=io.StringIO(),
      force_terminal=True,
      width=width,
      height=24,
      legacy_windows=False,
      _environ={'TERM': 'xterm'},
    )
    self._at = 0

  def resize(self, width):
    self.show()
    self.terminal.resize(width)
    self.console.width = width

  def show(self):
    text = self.console.file.getvalue()
    self.terminal.write(text[self._at :])
    self._at = len(text)
    return self.terminal.shown()


def group(rows):
  texts = [rich.text.Text(r, no_wrap=True, overflow='crop') for r in rows]
  return rich.console.Group(*texts)


@pytest.mark.parametrize(
  'widths', [(40,), (20,), (50, 33, 8), (40, 120), (75,)]
)
def test_nothing_is_left_of_a_region_in_a_narrower_terminal(widths):
  pair = Pair(80)
  pair.console.print('before')
  region = reflow.Region(pair.console)
  region.update(group(ROWS))
  assert pair.show() == ['before', *ROWS]
  for width in widths:
    pair.resize(width)
  region.update(group(ROWS))
  cut = [row[: widths[-1]].rstrip() for row in ROWS]
  assert pair.show() == ['before', *cut]
  pair.resize(17)
  pair.console.print('above')
  region.stop()
  cut = [row[:17] for row in ROWS]
  assert pair.show() == ['before', 'above', *cut]


def test_a_region_that_goes_leaves_nothing_in_a_narrower_terminal():
  pair = Pair(80)
  region = reflow.Region(pair.console, transient=True)
  region.update(group(ROWS))
  pair.resize(30)
  region.stop()
  pair.console.print('after')
  assert pair.show() == ['after']


@pytest.mark.parametrize(
  ('environ', 'erased'),
  [
    ({}, True),
    ({'XTERM_VERSION': 'XTerm(390)'}, False),
    ({'STY': '1.pts'}, False),
    ({'XTERM_VERSION': 'XTerm(390)', 'TMUX': '/tmp/tmux'}, True),
  ],
)
def test_a_terminal_that_cuts_rows_keeps_the_lines_above(environ, erased):
  pair = Pair(80)
  hook = reflow.Reflow(pair.console, lambda: group(ROWS), environ)
  assert hook.process_renderables(['x']) == ['x']
  pair.console.width = 40
  first, *rest = hook.process_renderables(['x'])
  assert (first != 'x') == erased
  # Nothing has to be erased in rows that were drawn for this width.
  assert hook.process_renderables(['x']) == ['x']


def test_what_a_run_shows_leaves_nothing_in_a_narrower_terminal():
  pair = Pair(80)
  screen = Screen(20, console=pair.console, clock=lambda: 0.0)
  with screen:
    screen.line('Training')
    screen.update(1, {'loss': 4.0})
    batches = screen.track(range(2), 'Evaluating on ' + 'code ' * 9, 2)
    next(batches)
    assert len(pair.show()) == 3
    pair.resize(30)
    list(batches)
    pair.resize(24)
    screen.line('an evaluation')
    screen.update(20, {'loss': 3.0})
  assert pair.show() == [
    'Training',
    'an evaluation',
    'step 20/20  100%  loss \N{HORIZONTAL ELLIPSIS}',
  ]
