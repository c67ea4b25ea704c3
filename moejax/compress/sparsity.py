"""Structured sparsity of a residual while it trains: how much stays, and what.

LoSparse (arXiv 2306.11222), as MC-SMoE (arXiv 2310.01334, section 3.2) uses it:

  schedule      the share of the numbers that stays at each step
  sensitivity   |s dL/ds|, smoothed over steps
  units         its reduction over whole rows or columns, and one threshold for
                all matrices
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from moejax.core import errors

Direction = Literal['rows', 'columns']
# The axis of s_IO that is reduced for a score of each row, or column.
REDUCED: dict[Direction, int] = {'rows': 1, 'columns': 0}
REDUCTIONS: dict[str, Callable[..., np.ndarray]] = {
  'mean': np.mean,
  'sum': np.sum,
  'max': np.max,
  'min': np.min,
}


@dataclasses.dataclass(frozen=True)
class CubicSchedule:
  """The share r(t) that stays at step t; the defaults are MC-SMoE's.

    r(t) = r_f + (r_i - r_f) (1 - (t - t_i) / (T - t_i - t_f))^3

  for t_i < t <= T - t_f; it is r_i before and r_f after.

  Attributes:
    steps: T, all steps.
    initial_steps: t_i, steps at the first share.
    final_steps: t_f, steps at the last share.
    initial: r_i, in (0, 1].
    final: r_f, in [0, r_i].
  """

  steps: int = 10_000
  initial_steps: int = 400
  final_steps: int = 1_600
  initial: float = 1.0
  final: float = 0.1

  def __post_init__(self):
    if min(self.initial_steps, self.final_steps) < 0 or (
      self.steps <= self.initial_steps + self.final_steps
    ):
      raise errors.InputError(
        f'initial_steps={self.initial_steps} and final_steps='
        f'{self.final_steps} leave nothing of steps={self.steps}; train longer'
      )
    if not 0 <= self.final <= self.initial <= 1:
      raise errors.InputError(
        f'shares initial={self.initial} and final={self.final} must fall '
        'within 0 to 1'
      )

  def share(self, step: int) -> float:
    """r(step)."""
    if step <= self.initial_steps:
      return self.initial
    if step > self.steps - self.final_steps:
      return self.final
    falling = self.steps - self.initial_steps - self.final_steps
    left = 1 - (step - self.initial_steps) / falling
    return self.final + (self.initial - self.final) * left**3


@dataclasses.dataclass(frozen=True)
class Sensitivity:
  """The smoothed sensitivity of a matrix; a new value after each step.

  I = |s dL/ds| is averaged over a window of steps. At the end of a window

    ema = beta1 ema + (1 - beta1) I
    uncertainty = beta2 uncertainty + (1 - beta2) |I - ema|, with the new ema

  and the score is the ema, or the product of both with an uncertainty.

  Attributes:
    ema: of the windows so far; 0 at the start.
    uncertainty: 0 at the start.
    window: mean of I in the window that is not yet full.
    filled: steps in it.
    window_steps: steps of a window.
    beta1: of the ema.
    beta2: of the uncertainty; 1 leaves it out, the default of MC-SMoE's code.
  """

  ema: np.ndarray | float = 0.0
  uncertainty: np.ndarray | float = 0.0
  window: np.ndarray | float = 0.0
  filled: int = 0
  window_steps: int = 1
  beta1: float = 0.85
  beta2: float = 1.0

  def after(self, s_IO: np.ndarray, gradient_IO: np.ndarray) -> 'Sensitivity':
    """The sensitivity after one more step."""
    filled = self.filled + 1
    now_IO = np.abs(s_IO * gradient_IO)
    window = self.window + (now_IO - self.window) / filled
    if filled < self.window_steps:
      return dataclasses.replace(self, window=window, filled=filled)
    ema = self.beta1 * self.ema + (1 - self.beta1) * window
    uncertainty = self.beta2 * self.uncertainty + (1 - self.beta2) * np.abs(
      window - ema
    )
    return dataclasses.replace(
      self, ema=ema, uncertainty=uncertainty, window=0.0, filled=0
    )

  def score(self) -> np.ndarray:
    """score_IO: larger for numbers that the loss depends on more."""
    if self.beta2 == 1:
      return np.asarray(self.ema)
    return np.asarray(self.ema * self.uncertainty)


def kept(
  scores: Mapping[str, np.ndarray],
  share: float,
  direction: Direction = 'columns',
  reduction: str = 'mean',
) -> dict[str, np.ndarray]:
  """The numbers of all matrices that stay, in whole rows or columns.

  One threshold holds for all matrices: units stay from the best on until they
  have the share of all numbers. The unit that crosses the share stays, and so
  do those of the same score. The code of MC-SMoE takes the score one number
  below as its threshold, so where units just fill the share it keeps one more.

  Args:
    scores: by matrix, score_IO.
    share: of the numbers, in [0, 1].
    direction: rows are inputs and columns outputs of a matrix [I, O]. MC-SMoE
      prunes rows of [O, I], which are columns here.
    reduction: an entry of REDUCTIONS.

  Returns:
    By matrix, bool [I, O].
  """
  axis = REDUCED[direction]
  units = {
    name: np.broadcast_to(
      REDUCTIONS[reduction](score_IO, axis=axis, keepdims=True), score_IO.shape
    )
    for name, score_IO in scores.items()
  }
  ranked = np.sort(np.concatenate([x.reshape(-1) for x in units.values()]))
  # A product such as 0.1 * 30 is a little above 3, and is no fourth number.
  num = math.ceil(share * len(ranked) - 1e-9)
  threshold = ranked[-num] if num else np.inf
  return {name: score_IO >= threshold for name, score_IO in units.items()}
