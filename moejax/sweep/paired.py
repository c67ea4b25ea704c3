"""Paired tests over seeds: whether two configs differ by more than chance.

Runs of one seed read the same rows in the same order, so part of what a seed
does to the loss it does to both configs; the difference is taken seed by seed.

  t-test      the differences are taken for a sample of a normal distribution
  sign flips  if the configs were the same, each difference could as well have
              the other sign: the share of all 2^n signs whose sum is as far
              from 0 (Fisher's randomisation test). It assumes no distribution,
              and n seeds cannot bring it below 2 / 2^n.

Of many pairs some differ by chance, so p of the t-test is corrected for their
number by Holm's method (Scandinavian Journal of Statistics 6, 1979).
"""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

LEVEL = 0.05  # of p, below which a difference is said to be found
MOST_FLIPPED = 20  # differences whose 2^n signs are all tried


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two configs, compared on the seeds that both have.

  Attributes:
    one: name of the first.
    other: name of the second.
    num: the number of seeds.
    difference: mean of the first minus the second.
    low: lower end of the 95% interval of the difference, by the t-test.
    high: its upper end.
    p: of the t-test.
    holm: p of the t-test, corrected for the number of pairs.
    flips: p of the sign flips; None for more than MOST_FLIPPED seeds.
  """

  one: str
  other: str
  num: int
  difference: float
  low: float
  high: float
  p: float
  holm: float
  flips: float | None


def difference(
  one: Mapping[int, float], other: Mapping[int, float]
) -> dict[str, float | int | None]:
  """The mean difference of two configs over the seeds that both have.

  Args:
    one: scores by seed.
    other: scores by seed.

  Returns:
    `difference`, the mean of one minus other; `error`, its standard error, None
    for fewer than two seeds; `n`, the number of seeds.
  """
  differences = _differences(one, other)
  if not differences:
    return {'difference': None, 'error': None, 'n': 0}
  error = None
  if len(differences) > 1:
    error = statistics.stdev(differences) / math.sqrt(len(differences))
  return {
    'difference': statistics.fmean(differences),
    'error': error,
    'n': len(differences),
  }


def pairs(
  scores: Mapping[str, Mapping[int, float]], against: str | None = None
) -> list[Pair]:
  """The tests of all pairs with two seeds or more in common, surest first.

  Args:
    scores: by name of the config, scores by seed.
    against: the name of one config, to which the others are compared alone.
  """
  chosen = [*itertools.combinations(scores, 2)]
  if against is not None:
    chosen = [(name, against) for name in scores if name != against]
  found = []
  for one, other in chosen:
    differences = _differences(scores[one], scores.get(other, {}))
    if len(differences) > 1:
      found.append((one, other, differences))
  tests = [t_test(differences) for *_, differences in found]
  corrected = holm([p for p, _, _ in tests])
  made = [
    Pair(
      one=one,
      other=other,
      num=len(differences),
      difference=statistics.fmean(differences),
      low=low,
      high=high,
      p=p,
      holm=adjusted,
      flips=sign_flips(differences),
    )
    for (one, other, differences), (p, low, high), adjusted in zip(
      found, tests, corrected, strict=True
    )
  ]
  return sorted(made, key=lambda pair: pair.p)


def _differences(
  one: Mapping[int, float], other: Mapping[int, float]
) -> list[float]:
  return [one[seed] - other[seed] for seed in sorted({*one} & {*other})]


def t_test(differences: Sequence[float]) -> tuple[float, float, float]:
  """Two-sided p that the mean is 0, and the mean's 95% interval.

  Args:
    differences: two or more.
  """
  import scipy.stats  # slow to import

  mean, num = statistics.fmean(differences), len(differences)
  error = statistics.stdev(differences) / math.sqrt(num)
  if not error:
    return (0.0 if mean else 1.0), mean, mean
  half = float(scipy.stats.t.isf(0.025, num - 1)) * error
  p = 2 * float(scipy.stats.t.sf(abs(mean) / error, num - 1))
  return p, mean - half, mean + half


def sign_flips(differences: Sequence[float]) -> float | None:
  """The share of all signs of the differences whose sum is as far from 0.

  Example, 1, 2 and 3: of the eight sums, 6 and -6 are as far: 2 / 8.
  """
  if len(differences) > MOST_FLIPPED:
    return None
  sums = np.zeros(1)
  for value in differences:
    sums = np.concatenate([sums + value, sums - value])
  # Sums that are equal but for rounding count as equal.
  reached = abs(math.fsum(differences)) * (1 - 1e-12)
  return float(np.mean(np.abs(sums) >= reached))


def holm(ps: Sequence[float]) -> list[float]:
  """Probabilities corrected for their number, in their order.

  The smallest is multiplied by their number m, the next by m - 1, and so on;
  none becomes less than a smaller one, nor more than 1.
  """
  adjusted, least = [0.0] * len(ps), 0.0
  for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
    least = max(least, min(1.0, (len(ps) - rank) * ps[i]))
    adjusted[i] = least
  return adjusted


def fewest_seeds() -> int:
  """The number of seeds with which sign flips can come below LEVEL."""
  return next(n for n in itertools.count(2) if 2 / 2**n < LEVEL)
