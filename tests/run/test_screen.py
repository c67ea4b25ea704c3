import io
import re
import shlex

import numpy as np
import pytest
import rich.console

from moejax.run import load_rows, screen
from moejax.run.screen import Screen

ESCAPE = re.compile(r'\x1b\[[0-9;?]*[a-zA-Z]')


class Clock:
  """A clock that a test sets."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


def make(total, *, terminal, width=80, height=24, encoding='utf-8', **options):
  """A screen, the buffer it writes to, and its clock."""
  buffer = io.TextIOWrapper(
    io.BytesIO(), encoding=encoding, newline='', write_through=True
  )
  console = rich.console.Console(
    file=buffer,
    width=width,
    height=height,
    force_terminal=terminal or None,
    legacy_windows=False,
    _environ={'TERM': 'xterm', **options.pop('environ', {})},
  )
  clock = Clock()
  shown = Screen(total, console=console, clock=clock, **options)
  return shown, lambda: buffer.buffer.getvalue().decode(encoding), clock


def drawings(text):
  """The states of the region, each as plain lines."""
  frames = re.split(r'(?:\r?\x1b\[2K(?:\x1b\[1A\x1b\[2K)*)', text)
  return [ESCAPE.sub('', f).replace('\r', '').splitlines() for f in frames]


LOAD_LE = np.array([[4, 4, 4, 4], [12, 2, 2, 0]])


def test_plain_lines_exactly():
  shown, text, clock = make(12, terminal=False, plain_every=5, first_layer=1)
  shown.line('reading [the] data')
  for step in range(1, 13):
    clock.now += 100 if step <= 2 else 30  # compiling is not counted
    values = {'loss': np.float32(8) / step, 'time/tokens_per_s': 3214.4}
    shown.update(step, values, LOAD_LE)
  shown.line('done: ' + 'x' * 100)
  shown.close()
  load, speed = 'load max/mean 3.00 (layer 2), dead 1 of 8', '3,214 tok/s'
  # Means of five steps: 8 (1 + 1/2 + 1/3 + 1/4 + 1/5) / 5 = 3.653, then
  # 8 (1/6 + ... + 1/10) / 5 = 1.033 and 8 (1/8 + ... + 1/12) / 5 = 0.817.
  assert text().splitlines() == [
    'reading [the] data',
    f'step  5/12   41%  loss 1.6000 (mean 3.65)  {speed}  left 3:30  {load}',
    f'step 10/12   83%  loss 0.8000 (mean 1.03)  {speed}  left 1:00  {load}',
    f'step 12/12  100%  loss 0.6667 (mean 0.82)  {speed}  left 0:00  {load}',
    'done: ' + 'x' * 100,
  ]


def test_plain_without_what_is_not_there():
  shown, text, _ = make(2, terminal=False, plain_every=1)
  shown.update(1, {})
  shown.update(2, {'loss': float('nan')}, np.zeros((0, 4)))
  assert text() == 'step 1/2   50%\nstep 2/2  100%  loss nan\n'


def test_a_dumb_terminal_gets_plain_lines():
  shown, text, _ = make(1, terminal=True, environ={'TERM': 'dumb'})
  shown.update(1, {'loss': 1.0})
  shown.line('end')
  assert text() == 'step 1/1  100%  loss 1.0000\nend\n'


def test_live_region():
  shown, text, clock = make(8, terminal=True, first_layer=1)
  with shown:
    for step in range(1, 9):
      shown.update(step, {'loss': 4.0}, LOAD_LE * step)
      clock.now += 10
  *_, last = drawings(text())
  assert last == [
    'step 8/8  100%  loss 4.0000 (mean 4.00)  left 0:00  ' + '━' * 27,
    'expert load / mean:  · 0  ▅ 1  █ over 1.6',
    'layer 1  ▅▅▅▅  max 1.00  dead 0',
    'layer 2  █▃▃·  max 3.00  dead 1',
  ]
  assert text().startswith('\x1b[?25l')  # the cursor is hidden, and back
  assert text().rstrip().endswith('\x1b[?25h')


def test_live_at_most_four_times_a_second_and_the_last_is_drawn():
  shown, text, clock = make(1000, terminal=True)
  with shown:
    for step in range(1, 101):
      clock.now += 0.02
      shown.update(step, {})
  steps = [int(n) for n in re.findall(r'step +(\d+)/', text())]
  # 2 s at 0.26 s (the first multiple of 0.02 that is not less than 0.25).
  assert sorted(set(steps)) == [1, *range(14, 100, 13), 100]


def test_lines_stay_above_the_live_region():
  shown, text, _ = make(4, terminal=True)
  with shown:
    shown.update(1, {'loss': 4.0}, LOAD_LE)
    shown.line('validation [loss] 3.2')
    shown.update(4, {'loss': 3.0}, LOAD_LE)
  above, below = text().split('validation [loss] 3.2')
  assert 'step 1/4' in above
  assert 'layer 1' in below
  assert 'step 4/4' in below


@pytest.mark.parametrize('width', [20, 40, 80, 200])
@pytest.mark.parametrize('shape', [(1, 1), (3, 16), (30, 160)])
def test_nothing_wraps_and_it_fits(width, shape):
  shown, text, _ = make(10**5, terminal=True, width=width, height=24)
  load_LE = np.random.default_rng(0).integers(0, 9, shape)
  values = {'loss': 12.3456, 'time/tokens_per_s': 1234567.0}
  with shown:
    for step in (1, 2, 10**5):
      shown.update(step, values, load_LE)
  for frame in drawings(text()):
    assert all(len(line) <= width for line in frame)
    assert len(frame) <= 23
  layers = [line for line in frame if line.startswith('layer')]
  assert len(layers) == min(shape[0], 20)


def test_more_experts_than_columns_share_cells():
  shown, text, _ = make(1, terminal=True)
  with shown:
    shown.update(1, {}, np.full((2, 160), 3))
  *_, last = drawings(text())
  assert last[2].startswith('layer 0  ' + '▅' * 40 + '  max')
  assert last[1] == 'expert load / mean (4 to a cell):  · 0  ▅ 1  █ over 1.6'


def test_more_layers_than_lines_shows_the_worst():
  shown, text, _ = make(1, terminal=True, height=7, width=120)
  load_LE = np.ones((9, 4))
  for layer, extra in [(2, 9), (5, 7), (7, 8)]:
    load_LE[layer, 0] += extra
  with shown:
    shown.update(1, {}, load_LE)
  *_, last = drawings(text())
  assert last[1].startswith('3 worst of 9 layers; expert load / mean:')
  assert [line[:7] for line in last[2:]] == ['layer 2', 'layer 5', 'layer 7']


def test_no_color():
  shown, text, clock = make(4, terminal=True, environ={'NO_COLOR': '1'})
  with shown:
    shown.update(2, {}, LOAD_LE)
  codes = set(re.findall(r'\x1b\[([0-9;]*)m', text()))
  assert codes <= {'2', '0'}  # dim is no colour
  *_, last = drawings(text())
  assert last[0].rstrip() == 'step 2/4   50%  ' + '━' * 31 + '╸'


def test_a_terminal_without_unicode():
  shown, text, _ = make(1, terminal=True, encoding='latin-1')
  with shown:
    shown.update(1, {}, LOAD_LE)
  *_, last = drawings(text())
  assert last[2:] == [
    'layer 0  ++++  max 1.00  dead 0',
    'layer 1  @--   max 3.00  dead 1',
  ]


def test_closing_what_showed_nothing():
  shown, text, _ = make(1, terminal=True)
  shown.close()
  assert text() == ''


def test_load_cells_as_in_the_docstring():
  load_LE = np.array([[0, 1, 4, 8, 4, 7]])
  assert load_rows.load_cells(load_LE, 6) == (['·▂▅█▅█'], 1)
  assert load_rows.load_cells(load_LE, 3) == (['▂▇▇'], 2)
  # Five to two cells: three, and the two that are left.
  assert load_rows.load_cells(np.array([[2, 2, 2, 2, 2]]), 2) == (['▅▅'], 3)


def test_a_load_far_over_the_mean_has_a_sign_of_its_own():
  """Loads of 1.7 and 64 times the mean do not look alike."""
  few, many = 1.7 / 20, 5 / 20
  load_LE = np.array([[few, many, *[(1 - few - many) / 18] * 18]])
  (cells,), _ = load_rows.load_cells(load_LE, 20)
  assert cells[:2] == '█◆'
  assert set(cells[2:]) == {'▄'}
  for encoding, sign in (('utf-8', '◆'), ('latin-1', '!')):
    for loads, words in ((load_LE, f'  {sign} over 4'), (LOAD_LE, '1.6')):
      shown, text, _ = make(1, terminal=True, encoding=encoding)
      with shown:
        shown.update(1, {}, loads)
      *_, last = drawings(text())
      assert last[1].endswith(words)


def test_the_mean_loss_is_of_the_last_steps():
  shown, text, clock = make(9, terminal=True, plain_every=3)
  with shown:
    for step, loss in enumerate((9.0, 5.0, 3.0, 4.0, 2.0), 1):
      clock.now += 1
      shown.update(step, {'loss': loss})
  losses = re.findall(r'loss ([\d.]+)(?: \(mean ([\d.]+)\))?', text())
  assert losses[0] == ('9.0000', '')
  assert losses[1] == ('5.0000', '7.00')
  assert losses[-1] == ('2.0000', '3.00')


def test_what_is_waited_for_is_shown_on_a_terminal_until_it_is_done():
  shown, text, _ = make(8, terminal=True)
  with shown.waiting('Compiling'):
    assert drawings(text())[-1] == ['Compiling ...']
  shown.update(8, {'loss': 3.0})
  shown.close()
  *_, last = drawings(text())
  assert last[0].startswith('step 8/8')
  shown, text, _ = make(8, terminal=False)
  with shown.waiting('Compiling'):
    pass
  assert text() == ''


def test_load_cells_rise_with_the_load():
  load_LE = np.array([np.arange(1, 50)])
  (cells,), _ = load_rows.load_cells(load_LE, 99)
  levels = [load_rows.RAMP.index(c) for c in cells]
  assert levels == sorted(levels)
  assert set(levels) == set(range(8))


def test_a_layer_without_any_load():
  assert load_rows.load_cells(np.zeros((1, 3)), 9) == (['···'], 1)
  assert load_rows.load_summary(np.zeros((1, 3))) == (
    'load max/mean 0.00 (layer 0), dead 3 of 3'
  )


def test_load_summary_as_in_the_docstring():
  assert load_rows.load_summary(np.array([[3, 1, 0, 0], [1, 1, 1, 1]])) == (
    'load max/mean 3.00 (layer 0), dead 2 of 8'
  )


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [(0, '0:00'), (7.4, '0:07'), (585, '9:45'), (3599.6, '1:00:00')],
)
def test_duration(seconds, text):
  assert screen.duration(seconds) == text


LONG = (
  'Model: 9.7M parameters, 4.0M active per token, 32 routed experts + 2 shared '
  'in 4 of 4 layers.'
)


def plain(text):
  return ESCAPE.sub('', text).replace('\r', '').splitlines()


@pytest.mark.parametrize('width', [20, 40, 80])
def test_a_long_line_breaks_at_words_on_a_terminal(width):
  shown, text, _ = make(1, terminal=True, width=width)
  shown.line(LONG)
  lines = plain(text())
  assert len(lines) > 1
  assert all(len(line) <= width for line in lines)
  # No word is broken, and none is lost.
  assert ' '.join(lines).split() == LONG.split()


def test_a_word_wider_than_the_terminal_stays_whole():
  path = 'runs/' + 'x' * 40
  shown, text, _ = make(1, terminal=True, width=20)
  shown.line(f'The run is in {path}: metrics.jsonl')
  lines = plain(text())
  assert f'{path}:' in lines
  assert len(lines) == 3


@pytest.mark.parametrize('width', [30, 80])
def test_a_long_command_is_continued_as_a_shell_reads_it(width):
  shown, text, _ = make(1, terminal=True, width=width)
  command = "python -m moejax.main --config=configs/tiny.py --x='a  b' --y=1"
  shown.command(command)
  lines = plain(text())
  assert all(len(line) <= width for line in lines)
  assert shlex.split(text().replace('\\\n', '')) == shlex.split(command)


def test_a_command_in_a_log_is_one_line():
  shown, text, _ = make(1, terminal=False, width=20)
  shown.command('python -m moejax.main --config=configs/tiny.py')
  assert text() == '  python -m moejax.main --config=configs/tiny.py\n'


def tracked(shown, clock, seconds=4.0, num=6):
  for item in shown.track(range(num), 'Evaluating on code', num):
    clock.now += seconds
    yield item


def test_what_is_not_training_shows_progress_in_a_log():
  shown, text, clock = make(1, terminal=False)
  assert list(tracked(shown, clock)) == [0, 1, 2, 3, 4, 5]
  # At 12 s, the first moment after ten, three are done of 4 s each.
  assert text().splitlines() == [
    'Evaluating on code: 3 of 6 batches, left 0:12'
  ]


def test_on_a_terminal_progress_is_a_row_that_goes():
  shown, text, clock = make(8, terminal=True)
  with shown:
    shown.update(1, {'loss': 4.0}, LOAD_LE)
    list(tracked(shown, clock))
    shown.update(8, {'loss': 3.0}, LOAD_LE)
  frames = drawings(text())
  during = [f for f in frames if any('Evaluating' in line for line in f)]
  # Below what training shows, which stays.
  assert [f[-1] for f in during][1:3] == [
    f'Evaluating on code: {done} of 6 batches, left 0:{4 * (6 - done):02}'
    for done in (1, 2)
  ]
  assert during[0][-1] == 'Evaluating on code: 0 of 6 batches'
  assert all(f[0].startswith('step 1/8') for f in during)
  assert not any('Evaluating' in line for line in frames[-1])
  assert frames[-1][0].startswith('step 8/8')


def test_progress_without_training_leaves_nothing():
  shown, text, clock = make(8, terminal=True)
  list(tracked(shown, clock))
  shown.line('done')
  frames = drawings(text())
  assert any('3 of 6 batches' in line for f in frames for line in f)
  assert [line for line in frames[-1] if line] == ['done']


def test_experts_that_a_layer_does_not_have_are_not_dead():
  """Layer 1 has two of four experts, with loads 3 and 1 over a mean of 2."""
  load_LE = np.array([[1, 1, 2, 0], [3, 1, np.nan, np.nan]])
  assert load_rows.load_summary(load_LE) == (
    'load max/mean 2.00 (layer 0), dead 1 of 6'
  )
  assert load_rows.load_summary(load_LE[1:]) == (
    'load max/mean 1.50 (layer 0), dead 0 of 2'
  )
  assert load_rows.load_cells(load_LE, 4) == (['▅▅█·', '▇▃  '], 1)
  # Two to a cell: averages of those that are there.
  assert load_rows.load_cells(load_LE, 2) == (['▅▅', '▅ '], 2)
