"""Log-log fits of losses against the sample size, with bootstrap intervals."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from moejax.core import errors

LEVEL = 0.95
RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Slope:
  """loss = exp(intercept) (log n / n) ** value.

  Attributes:
    value: the exponent; 1/2 is the theorems' for their losses.
    low: lower end of the interval.
    high: upper end.
    intercept: logarithm of the loss where log n / n is 1.
  """

  value: float
  low: float
  high: float
  intercept: float

  def at(self, size: np.ndarray) -> np.ndarray:
    """The losses of the fitted line at sample sizes."""
    return np.exp(self.intercept + self.value * regressor(size))


def regressor(size: np.ndarray) -> np.ndarray:
  """log(log n / n), against which arXiv 2505.10860 fits (appendix G.1)."""
  size = np.asarray(size, np.float64)
  return np.log(np.log(size) / size)


def fit(
  size_S: np.ndarray,
  loss_ST: np.ndarray,
  seed: int = 0,
  resamples: int = RESAMPLES,
  middle: Callable[..., Any] = np.mean,
) -> Slope:
  """Fits a line to the logarithm of the mean loss by least squares.

  The interval is that of the percentile bootstrap: trials are drawn with
  replacement, at each size by itself, and the line is fitted again.

  Args:
    size_S: sample sizes, of which two differ.
    loss_ST: losses of the trials at each size; NaN for a trial that has none.
    seed: of the bootstrap.
    resamples: how often trials are drawn.
    middle: of the losses of one size: `np.mean` or `np.median`.

  Raises:
    InputError: fewer than two sizes, a size without a trial, or a mean loss
      that is not above zero.
  """
  size_S, loss_ST = np.asarray(size_S), np.asarray(loss_ST, np.float64)
  if len(np.unique(size_S)) < 2:
    raise errors.InputError(
      f'sizes {[*map(int, size_S)]}: a slope needs two sizes that differ'
    )
  rows = [row[np.isfinite(row)] for row in loss_ST]
  for size, row in zip(size_S, rows, strict=True):
    if len(row) == 0:
      raise errors.InputError(f'size {size}: no trial has a loss')
    if middle(row) <= 0:
      raise errors.InputError(f'size {size}: a mean loss of 0 has no logarithm')
  x_S = regressor(size_S)
  value, intercept = _line(x_S, np.log([middle(row) for row in rows]))
  rng = np.random.default_rng(seed)
  mean_RS = np.stack(
    [
      middle(rng.choice(row, (resamples, len(row)), replace=True), axis=1)
      for row in rows
    ],
    axis=1,
  )
  # A resample of zeros alone has no logarithm, and no line.
  mean_RS = mean_RS[np.all(mean_RS > 0, axis=1)]
  drawn_R = [_line(x_S, row)[0] for row in np.log(mean_RS)]
  tail = (1 - LEVEL) / 2
  low, high = np.quantile(drawn_R, [tail, 1 - tail])
  return Slope(float(value), float(low), float(high), float(intercept))


def _line(x_S: np.ndarray, y_S: np.ndarray) -> tuple[float, float]:
  """Slope and intercept of the line of least squares."""
  centred_S = x_S - x_S.mean()
  slope = centred_S @ y_S / (centred_S @ centred_S)
  return float(slope), float(y_S.mean() - slope * x_S.mean())
