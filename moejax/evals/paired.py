"""Paired tests between two models that answered the same items.

Two scores on the same items differ by less than their standard errors suggest,
because hard items are hard for both models. A paired test looks at the
differences of single items:

  mcnemar    for values that are 0 or 1: the exact test of McNemar, which asks
             whether items that only one model got right are shared out as by a
             fair coin
  bootstrap  for other values: items are drawn again with replacement, and the
             sign of the mean difference is counted

`interval` has the ends of a difference in place of its probability.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from moejax.evals.suite import Result

DRAWS, SEED = 10_000, 0  # of the bootstrap
INTERVAL_DRAWS = 1000


@dataclasses.dataclass(frozen=True)
class Comparison:
  """A paired test of one benchmark.

  Attributes:
    difference: mean of the second model's values less that of the first's.
    p: probability of a difference as large or larger, in either direction, if
      the models are equally good.
    test: 'mcnemar' or 'bootstrap'.
    better: number of items at which the second model is better.
    worse: number of items at which it is worse.
  """

  difference: float
  p: float
  test: str
  better: int
  worse: int


def compare(first: Result, second: Result) -> Comparison | None:
  """A paired test of the metric that counts.

  Returns:
    The test; None if the models were not asked the same (`Result.digest`), so
    that no item of one is an item of the other, or if the metric is of all
    items together.
  """
  if (first.digest, first.metric) != (second.digest, second.metric):
    return None
  # The perplexity is of the mean of all items; its items have `nll`.
  metric = first.metric if first.metric in first.values else 'nll'
  if metric not in first.values:
    return None
  pairs = [
    (a, b)
    for a, b in zip(first.values[metric], second.values[metric], strict=True)
    if a is not None and b is not None
  ]
  if not pairs:
    return None
  return test([a for a, _ in pairs], [b for _, b in pairs])


def test(a: Sequence[float], b: Sequence[float]) -> Comparison:
  """A paired test of the values of the same items."""
  difference = np.asarray(b, np.float64) - np.asarray(a, np.float64)
  better, worse = int(np.sum(difference > 0)), int(np.sum(difference < 0))
  binary = np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()
  name = 'mcnemar' if binary else 'bootstrap'
  return Comparison(
    difference=float(np.mean(difference)),
    p=mcnemar(better, worse) if binary else bootstrap(difference),
    test=name,
    better=better,
    worse=worse,
  )


def mcnemar(better: int, worse: int) -> float:
  """The two-sided p-value of McNemar's exact test.

  Args:
    better: items that only the second model got right.
    worse: items that only the first model got right.
  """
  count = better + worse
  tail = sum(math.comb(count, k) for k in range(min(better, worse) + 1))
  return min(1.0, 2 * tail / 2**count)


def bootstrap(difference: np.ndarray) -> float:
  """Twice the share of resamples whose mean is not on the side of the mean.

  At most 1, and at least 1 / DRAWS, the smallest that so many draws resolve.
  """
  if not np.any(difference):
    return 1.0
  stream = np.random.default_rng(SEED)
  count = len(difference)
  means = np.empty(DRAWS)
  for i in range(DRAWS):  # one by one: some sets have 18,000 items
    means[i] = difference[stream.integers(count, size=count)].mean()
  other = np.mean(means <= 0) if difference.mean() > 0 else np.mean(means >= 0)
  return min(1.0, max(2 * float(other), 1 / DRAWS))


def interval(
  difference_R: np.ndarray, weight_R: np.ndarray
) -> tuple[float, float] | None:
  """The 95% confidence interval of a mean difference, by a bootstrap.

  Rows are drawn again with replacement, both models' values of a row together:
  the same rows are hard for both.

  Args:
    difference_R: by row, the sum of the differences of its values.
    weight_R: by row, the number of its values, or their weight.

  Returns:
    The 2.5% and the 97.5% quantile of the mean difference; None if there are
    fewer than two rows.
  """
  count = len(weight_R)
  if count < 2:
    return None
  stream = np.random.default_rng(SEED)
  mean_D = np.empty(INTERVAL_DRAWS)
  for i in range(INTERVAL_DRAWS):
    draw = stream.integers(count, size=count)
    mean_D[i] = float(difference_R[draw].sum()) / float(weight_R[draw].sum())
  low, high = np.quantile(mean_D, (0.025, 0.975))
  return float(low), float(high)
