"""Screen: shows the progress of a training run and every layer's load.

On a terminal one region is redrawn in place:

  step  120/2000   6%  loss 4.1234 (mean 4.20)  3,214 tok/s  left 9:45  ━━╸━━━━━
  expert load / mean:  · 0  ▅ 1  █ over 1.6  ◆ over 4
  layer 0  ▅▅▄▅▆▅▄▅▅▄▅▅▆▄▅▅  max 1.31  dead 0
  layer 1  █▂▄▅▃·▅▄▆▅▄▅▅▃▅◆  max 4.48  dead 1

In a log file, a pipe or CI there is one plain line every N steps:

  step  120/2000   6%  loss 4.1234 (mean 4.20)  3,214 tok/s  left 9:45  load
  max/mean 2.48 (layer 1), dead 1 of 32                     (all on one line)

The loss is that of the step, and behind it the mean of the last N steps.
"""

import collections
import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import rich.console
import rich.progress_bar
import rich.table
import rich.text

from moejax.core import lines, reflow, terminal
from moejax.core.console import Console
from moejax.run import load_rows

T = TypeVar('T')
LOSS = 'loss'
TOKENS_PER_S = 'time/tokens_per_s'
REFRESH_S = 0.25  # least time between two drawings on a terminal, in seconds
PLAIN_S = 10.0  # seconds between two lines of `track`, without a terminal
COMPILING_STEPS = 2  # left out of the estimate of the time left
# Said once on stderr, if the reader of stdout has gone.
GOES_ON = 'nobody reads the output any more; the work goes on without it'
LEAST_BAR = 8  # width of the shortest progress bar, in characters


class Screen:
  """Shows a run, on a terminal or in a log; must be closed at its end."""

  def __init__(
    self,
    total_steps: int,
    *,
    plain_every: int = 10,
    first_layer: int = 0,
    console: rich.console.Console | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Shows nothing yet.

    Args:
      total_steps: the step at which the run is complete.
      plain_every: without a terminal, steps between two lines.
      first_layer: the number of the first layer that has experts.
      console: where to show it; standard output by default.
      clock: function that gives the time in seconds; tests replace it.
    """
    self._total = total_steps
    self._every = max(1, plain_every)
    self._first_layer = first_layer
    self._console = console or Console()
    self._clock = clock
    self._updates = 0
    # Losses of the last steps, whose mean is shown.
    self._losses = collections.deque[float](maxlen=self._every)
    self._begin: tuple[int, float] | None = None  # step and time
    self._drawn = -math.inf
    self._stale: tuple[str, float, np.ndarray | None] | None = None
    self._region: reflow.Region | None = None
    self._rows: list[Any] = []  # of the region, as last drawn
    self._tracks = False  # whether a row of `track` is below the region
    # NO_COLOR and TERM=dumb are respected by Console itself.
    self._in_place = (
      self._console.is_terminal and not self._console.is_dumb_terminal
    )

  def __enter__(self) -> 'Screen':
    return self

  def __exit__(self, *unused: object) -> None:
    self.close()

  @terminal.outlived(GOES_ON)
  def update(
    self,
    step: int,
    values: Mapping[str, Any],
    load_LE: np.ndarray | None = None,
  ) -> None:
    """Shows a step; on a terminal at most four times a second.

    Args:
      step: how many steps are done.
      values: metrics by name; `loss` and `time/tokens_per_s` are shown.
      load_LE: load of each expert in each layer, in tokens or as a share;
        None where it is not known.
    """
    now = self._clock()
    if load_LE is not None and np.size(load_LE) == 0:
      load_LE = None  # every layer is dense
    self._updates += 1
    if self._updates == COMPILING_STEPS:
      self._begin = (step, now)
    if LOSS in values:
      self._losses.append(float(values[LOSS]))
    left = self._left(step, now)
    text = progress(step, self._total, values, left, self._mean_loss())
    if self._in_place:
      self._stale = (text, step / max(1, self._total), load_LE)
      if now - self._drawn >= REFRESH_S or step >= self._total:
        self._draw(now, *self._stale)
    elif step % self._every == 0 or step >= self._total:
      load = '' if load_LE is None else f'  {self._summary(load_LE)}'
      self._console.out(text + load, highlight=False)

  @terminal.outlived(GOES_ON)
  def line(self, text: str) -> None:
    """Shows a line that stays; on a terminal it stands above the region.

    On a terminal the line is broken at words, in a log file it is not. A word
    that is wider than the terminal stays whole, so that a path can be copied.
    """
    if self._in_place:
      for row in lines.wrapped(text, self._console.width):
        self._console.print(rich.text.Text(row), soft_wrap=True)
    else:
      self._console.out(text, highlight=False)

  def command(self, text: str) -> None:
    """Shows an indented shell command; a long one takes more lines."""
    width = self._console.width if self._in_place else math.inf
    for row in lines.command(text, width):
      self.line(row)

  def track(
    self, items: Iterable[T], title: str, total: int, unit: str = 'batches'
  ) -> Iterator[T]:
    """Yields the items, and shows how many of them are done.

    A terminal has a row that disappears at the end; a log file gets a line
    every ten seconds: `code: 12 of 35 batches, left 0:40`.
    """
    begin = shown = self._clock()
    try:
      if self._in_place:  # the first item may have to wait for a compilation
        self._track(f'{title}: 0 of {total} {unit}')
      for done, item in enumerate(items):
        now = self._clock()
        if done and now - shown >= (REFRESH_S if self._in_place else PLAIN_S):
          shown = now
          left = duration((now - begin) / done * max(0, total - done))
          self._track(f'{title}: {done} of {total} {unit}, left {left}')
        yield item
    finally:
      self._untrack()

  @contextlib.contextmanager
  def waiting(self, title: str) -> Iterator[None]:
    """Shows on a terminal what the block does, until it is done."""
    if self._in_place:
      self._track(f'{title} ...')
    try:
      yield
    finally:
      self._untrack()

  def first_shown(self, step: Callable[..., T], title: str) -> Callable[..., T]:
    """The same function, whose first call is shown, as it has to compile."""
    called = False

    def call(*args: Any) -> T:
      nonlocal called
      if called:
        return step(*args)
      called = True
      with self.waiting(title):
        return step(*args)

    return call

  @terminal.outlived(GOES_ON)
  def _track(self, text: str) -> None:
    if not self._in_place:
      self._console.out(text, highlight=False)
      return
    if self._region is None:
      self._region = reflow.Region(self._console, transient=True)
    self._region.update(rich.console.Group(*self._rows, _row(text, 'dim')))
    self._tracks = True

  @terminal.outlived(GOES_ON)
  def _untrack(self) -> None:
    if self._region is None or not self._tracks:
      return
    self._tracks = False
    self._region.update(rich.console.Group(*self._rows))
    if not self._rows:
      self._region.stop()
      self._region = None

  @terminal.outlived(GOES_ON)
  def close(self) -> None:
    """Draws the last update, if it was not drawn; it stays on the terminal."""
    if self._stale is not None:
      self._draw(self._clock(), *self._stale)
    if self._region is not None:
      self._region.stop()
      self._region, self._rows = None, []

  def _left(self, step: int, now: float) -> float | None:
    """Seconds that the remaining steps will take at the mean speed so far."""
    if self._begin is None or step <= self._begin[0]:
      return None
    step_s = (now - self._begin[1]) / (step - self._begin[0])
    return max(0, self._total - step) * step_s

  def _mean_loss(self) -> float | None:
    """Mean loss of the last steps; None of one step alone."""
    if len(self._losses) < 2:
      return None
    return sum(self._losses) / len(self._losses)

  def _summary(self, load_LE: np.ndarray) -> str:
    return load_rows.load_summary(load_LE, self._first_layer)

  def _draw(
    self, now: float, text: str, done: float, load_LE: np.ndarray | None
  ) -> None:
    if self._region is None:
      self._region = reflow.Region(self._console)
    rows = [self._progress_row(text, done)]
    if load_LE is not None:
      rows += self._load_rows(np.asarray(load_LE))
    # Lines are cut at the terminal's width: a wrapped line cannot be redrawn.
    self._region.update(rich.console.Group(*rows))
    self._rows = rows
    self._drawn = now
    self._stale = None

  def _progress_row(self, text: str, done: float) -> Any:
    bar = self._console.width - len(text) - 3
    if bar < LEAST_BAR:
      return _row(text)
    grid = rich.table.Table.grid(padding=(0, 2))
    grid.add_row(
      _row(text),
      rich.progress_bar.ProgressBar(
        total=1.0,
        completed=done,
        width=bar,
        complete_style='green',
        finished_style='green',
      ),
    )
    return grid

  def _load_rows(self, load_LE: np.ndarray) -> list[rich.text.Text]:
    ascii_only = not self._console.encoding.lower().startswith('utf')
    ramp = load_rows.ASCII_RAMP if ascii_only else load_rows.RAMP
    none = load_rows.ASCII_NONE if ascii_only else load_rows.NONE
    many = load_rows.ASCII_MANY if ascii_only else load_rows.MANY
    names = load_rows.layer_names(load_LE, self._first_layer)
    extremes = load_rows.extremes(load_LE)
    tails = [f'max {m:.2f}  dead {d}' for m, d in zip(*extremes, strict=True)]
    room = self._console.width - len(names[0]) - max(map(len, tails)) - 5
    cells, per_cell = load_rows.load_cells(
      load_LE, max(1, room), ramp, none, many
    )
    shared = f' ({per_cell} to a cell)' if per_cell > 1 else ''
    legend = (
      f'expert load / mean{shared}:  {none} 0  {ramp[4]} 1  {ramp[-1]} over 1.6'
    )
    if any(many in cell for cell in cells):
      legend += f'  {many} over {load_rows.MANY_FROM}'
    height = max(1, self._console.height - 4)
    shown = load_rows.worst(load_LE, height)
    if len(shown) < len(cells):
      legend = f'{len(shown)} worst of {len(cells)} layers; {legend}'
    rows = [_row(legend, 'dim')]
    rows += [_row(f'{names[i]}  {cells[i]}  {tails[i]}') for i in shown]
    return rows


def _row(text: str, style: str = '') -> rich.text.Text:
  return rich.text.Text(text, style, no_wrap=True, overflow='ellipsis')


def progress(
  step: int,
  total: int,
  values: Mapping[str, Any],
  left_s: float | None,
  mean_loss: float | None = None,
) -> str:
  """The line of progress.

  Args:
    step: how many steps are done.
    total: how many there are.
    values: metrics of the step by name.
    left_s: how long the others will take, in seconds; None if not known.
    mean_loss: mean loss of the last steps; None leaves it out.

  Example:
    step  120/2000   6%  loss 4.1234 (mean 4.20)  3,214 tok/s  left 9:45
  """
  width = len(str(total))
  parts = [f'step {step:>{width}}/{total}', f'{100 * step // max(1, total):3}%']
  if LOSS in values:
    mean = '' if mean_loss is None else f' (mean {mean_loss:.2f})'
    parts.append(f'loss {float(values[LOSS]):.4f}{mean}')
  if TOKENS_PER_S in values:
    parts.append(f'{float(values[TOKENS_PER_S]):,.0f} tok/s')
  if left_s is not None:
    parts.append(f'left {duration(left_s)}')
  return '  '.join(parts)


def duration(seconds: float) -> str:
  """A time as a clock shows it: 0:07, 9:45, 1:02:03."""
  minutes, s = divmod(round(seconds), 60)
  hours, m = divmod(minutes, 60)
  return f'{hours}:{m:02}:{s:02}' if hours else f'{m}:{s:02}'
