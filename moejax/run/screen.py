"""Screen: shows the progress of a training run and every layer's load.

On a terminal one region is redrawn in place:

  step  120/2000   6%  loss 4.1234  3,214 tok/s  left 9:45  ━━╸━━━━━━━━━━━━━━━━━
  expert load / mean:  · 0  ▅ 1  █ over 1.6
  layer 0  ▅▅▄▅▆▅▄▅▅▄▅▅▆▄▅▅  max 1.31  dead 0
  layer 1  █▂▄▅▃·▅▄▆▅▄▅▅▃▅█  max 2.48  dead 1

In a log file, a pipe or CI there is one plain line every N steps:

  step  120/2000   6%  loss 4.1234  3,214 tok/s  left 9:45  load max/mean 2.48
  (layer 1), dead 1 of 32                                   (all on one line)
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import rich.console
import rich.live
import rich.progress_bar
import rich.table
import rich.text

from moejax.core import lines, terminal
from moejax.core.console import Console

T = TypeVar('T')
LOSS = 'loss'
TOKENS_PER_S = 'time/tokens_per_s'
RAMP, NONE = '▁▂▃▄▅▆▇█', '·'
ASCII_RAMP, ASCII_NONE = '.:-=+*#@', ' '
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
    self._begin: tuple[int, float] | None = None  # step and time
    self._drawn = -math.inf
    self._stale: tuple[str, float, np.ndarray | None] | None = None
    self._live: rich.live.Live | None = None
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
    text = progress(step, self._total, values, self._left(step, now))
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
      for done, item in enumerate(items):
        now = self._clock()
        if done and now - shown >= (REFRESH_S if self._in_place else PLAIN_S):
          shown = now
          left = duration((now - begin) / done * max(0, total - done))
          self._track(f'{title}: {done} of {total} {unit}, left {left}')
        yield item
    finally:
      self._untrack()

  @terminal.outlived(GOES_ON)
  def _track(self, text: str) -> None:
    if not self._in_place:
      self._console.out(text, highlight=False)
      return
    if self._live is None:
      self._live = self._begin_live(transient=True)
    self._live.update(
      rich.console.Group(*self._rows, _row(text, 'dim')), refresh=True
    )
    self._tracks = True

  @terminal.outlived(GOES_ON)
  def _untrack(self) -> None:
    if self._live is None or not self._tracks:
      return
    self._tracks = False
    self._live.update(rich.console.Group(*self._rows), refresh=True)
    if not self._rows:
      self._live.stop()
      self._live = None

  def _begin_live(self, *, transient: bool = False) -> rich.live.Live:
    live = rich.live.Live(
      console=self._console, auto_refresh=False, transient=transient
    )
    live.start()
    return live

  @terminal.outlived(GOES_ON)
  def close(self) -> None:
    """Draws the last update, if it was not drawn; it stays on the terminal."""
    if self._stale is not None:
      self._draw(self._clock(), *self._stale)
    if self._live is not None:
      self._live.stop()
      self._live, self._rows = None, []

  def _left(self, step: int, now: float) -> float | None:
    """Seconds that the remaining steps will take at the mean speed so far."""
    if self._begin is None or step <= self._begin[0]:
      return None
    step_s = (now - self._begin[1]) / (step - self._begin[0])
    return max(0, self._total - step) * step_s

  def _summary(self, load_LE: np.ndarray) -> str:
    return load_summary(load_LE, self._first_layer)

  def _draw(
    self, now: float, text: str, done: float, load_LE: np.ndarray | None
  ) -> None:
    if self._live is None:
      self._live = self._begin_live()
    rows = [self._progress_row(text, done)]
    if load_LE is not None:
      rows += self._load_rows(np.asarray(load_LE))
    # Lines are cut at the terminal's width: a wrapped line cannot be redrawn.
    self._live.update(rich.console.Group(*rows), refresh=True)
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
    ramp = ASCII_RAMP if ascii_only else RAMP
    none = ASCII_NONE if ascii_only else NONE
    names = _layer_names(load_LE, self._first_layer)
    extremes = _extremes(load_LE)
    tails = [f'max {m:.2f}  dead {d}' for m, d in zip(*extremes, strict=True)]
    room = self._console.width - len(names[0]) - max(map(len, tails)) - 5
    cells, per_cell = load_cells(load_LE, max(1, room), ramp, none)
    shared = f' ({per_cell} to a cell)' if per_cell > 1 else ''
    legend = (
      f'expert load / mean{shared}:  {none} 0  {ramp[4]} 1  {ramp[-1]} over 1.6'
    )
    height = max(1, self._console.height - 4)
    shown = _worst(load_LE, height)
    if len(shown) < len(cells):
      legend = f'{len(shown)} worst of {len(cells)} layers; {legend}'
    rows = [_row(legend, 'dim')]
    rows += [_row(f'{names[i]}  {cells[i]}  {tails[i]}') for i in shown]
    return rows


def _row(text: str, style: str = '') -> rich.text.Text:
  return rich.text.Text(text, style, no_wrap=True, overflow='ellipsis')


def progress(
  step: int, total: int, values: Mapping[str, Any], left_s: float | None
) -> str:
  """The line of progress.

  Example:
    step  120/2000   6%  loss 4.1234  3,214 tok/s  left 9:45
  """
  width = len(str(total))
  parts = [f'step {step:>{width}}/{total}', f'{100 * step // max(1, total):3}%']
  if LOSS in values:
    parts.append(f'loss {float(values[LOSS]):.4f}')
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


def load_summary(load_LE: np.ndarray, first_layer: int = 0) -> str:
  """The load of the least balanced layer, and the number of dead experts.

  Example, two layers of four experts with loads [[3, 1, 0, 0], [1, 1, 1, 1]]:
    load max/mean 3.00 (layer 0), dead 2 of 8
  """
  load_LE = np.asarray(load_LE)
  most, dead = _extremes(load_LE)
  worst = int(np.argmax(most))
  number = np.count_nonzero(~np.isnan(load_LE))
  return (
    f'load max/mean {most[worst]:.2f} (layer {first_layer + worst}), '
    f'dead {sum(dead)} of {number}'
  )


def load_cells(
  load_LE: np.ndarray, width: int, ramp: str = RAMP, none: str = NONE
) -> tuple[list[str], int]:
  """One text per layer, one cell per expert, by load over the layer's mean.

  With more experts than `width`, equally many neighbours share a cell, which
  then shows their average.

  Example, one layer with loads [0, 1, 4, 8, 4, 7], mean 4:
    width 6: '·▂▅█▅█', 1 to a cell
    width 3: '▂▇▇', 2 to a cell (averages 0.5, 6, 5.5 over 4)

  Experts that a layer does not have (NaN) are left out of averages, and a cell
  of them alone is blank.

  Returns:
    The texts, and how many experts share a cell.
  """
  ratio_LE = _ratios(load_LE)
  num_experts = ratio_LE.shape[1]
  per_cell = -(-num_experts // width)
  rows = []
  for ratio_E in ratio_LE:
    groups = [
      ratio_E[i : i + per_cell] for i in range(0, num_experts, per_cell)
    ]
    rows.append(''.join(_cell(group, ramp, none) for group in groups))
  return rows, per_cell


def _cell(ratio_G: np.ndarray, ramp: str, none: str) -> str:
  """The character of the average of some experts' loads."""
  ratio_G = ratio_G[~np.isnan(ratio_G)]
  if not len(ratio_G):
    return ' '
  mean = ratio_G.mean()
  return ramp[min(7, int(4 * mean + 0.5))] if mean else none


def _ratios(load_LE: np.ndarray) -> np.ndarray:
  """Load over the layer's mean; zeros in a layer without any load.

  NaN, the load of an expert that its layer does not have, stays NaN.
  """
  load_LE = np.asarray(load_LE, np.float64)
  mean_L1 = np.nanmean(load_LE, axis=1, keepdims=True)
  return load_LE / np.where(mean_L1 > 0, mean_L1, 1)


def _extremes(load_LE: np.ndarray) -> tuple[list[float], list[int]]:
  """By layer, the largest load over the mean, and how many experts are dead."""
  ratio_LE = _ratios(load_LE)
  most_L, is_dead_LE = np.nanmax(ratio_LE, axis=1), ratio_LE == 0
  return most_L.tolist(), is_dead_LE.sum(axis=1).tolist()


def _worst(load_LE: np.ndarray, num: int) -> list[int]:
  """The `num` least balanced layers, in their order."""
  most, _ = _extremes(load_LE)
  return sorted(sorted(range(len(most)), key=lambda i: -most[i])[:num])


def _layer_names(load_LE: np.ndarray, first_layer: int) -> list[str]:
  numbers = [str(first_layer + i) for i in range(len(load_LE))]
  return [f'layer {n:>{len(numbers[-1])}}' for n in numbers]
