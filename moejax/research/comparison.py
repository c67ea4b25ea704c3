"""Whether methods differ by more than their seeds do.

All numbers are scores of trained runs: a method has one for each seed. The
seeds of a method are taken for a sample of normal distribution, with the same
deviation for all methods; with three seeds a method no other spread can be
told apart.
"""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Scores = Mapping[str, Sequence[float]]
LEVEL = 0.05  # of p, below which a difference is said to be found


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Methods against each other, by the scores of their seeds.

  Attributes:
    spread: standard deviation over seeds, pooled over methods.
    ratio: F, the variance between the methods' means over that within.
    p: probability of an F as large if all methods were the same.
    pairs: by pair of methods, the difference of means (first minus second) and
      its p, corrected for the number of pairs (Tukey's test).
  """

  spread: float
  ratio: float
  p: float
  pairs: Mapping[tuple[str, str], tuple[float, float]]

  def differ(self, one: str, other: str) -> bool:
    """Whether two methods differ by more than their seeds."""
    pair = (one, other) if (one, other) in self.pairs else (other, one)
    return self.pairs[pair][1] < LEVEL

  def num_differing(self) -> int:
    """The number of pairs that differ by more than their seeds."""
    return sum(p < LEVEL for _, p in self.pairs.values())

  def rows(self) -> dict[str, Any]:
    """Its numbers, ready for JSON."""
    return {
      'spread': self.spread,
      'F': self.ratio,
      'p': self.p,
      'pairs': {
        f'{one} - {other}': {'difference': difference, 'p': p}
        for (one, other), (difference, p) in self.pairs.items()
      },
    }


def compare(scores: Scores) -> Comparison | None:
  """Compares methods; None if fewer than two of them have two seeds or more.

  Methods with one seed are left out.
  """
  import scipy.stats  # slow to import

  groups = {name: group for name, group in scores.items() if len(group) > 1}
  if len(groups) < 2:
    return None
  test = scipy.stats.f_oneway(*groups.values())
  tukey = scipy.stats.tukey_hsd(*groups.values())
  means = {name: statistics.fmean(group) for name, group in groups.items()}
  pairs = {
    (one, other): (means[one] - means[other], float(tukey.pvalue[i, j]))
    for (i, one), (j, other) in itertools.combinations(enumerate(groups), 2)
  }
  return Comparison(
    pooled_spread(groups), float(test.statistic), float(test.pvalue), pairs
  )


def compare_within(scores: Scores) -> Comparison | None:
  """Compares methods that were all tried on the same models.

  What one model adds to the scores of all methods is taken out first (Tukey's
  test in randomised blocks, whose blocks are the models): models that differ
  hide no difference between methods. With two methods it is the paired t-test.

  Args:
    scores: by method, a score for each model, in the same order of models.

  Returns:
    The test, with the spread of what neither method nor model explains; None if
    fewer than two methods have as many scores as the most have, or these are
    fewer than two.
  """
  import scipy.stats  # slow to import

  most = max(map(len, scores.values()), default=0)
  names = [name for name, group in scores.items() if len(group) == most]
  if len(names) < 2 or most < 2:
    return None
  score_MR = np.array([scores[name] for name in names])
  mean_M = score_MR.mean(1)
  effect_M, model_R = mean_M - mean_M.mean(), score_MR.mean(0)
  rest_MR = score_MR - effect_M[:, None] - model_R
  freedom = (len(names) - 1) * (most - 1)
  variance = float(np.square(rest_MR).sum()) / freedom
  between = most * float(np.square(effect_M).sum()) / (len(names) - 1)
  ratio = between / variance if variance else math.inf
  error = math.sqrt(variance / most)
  pairs = {}
  for one, other in itertools.combinations(range(len(names)), 2):
    difference = float(mean_M[one] - mean_M[other])
    size = abs(difference) / error if error else math.inf
    p = scipy.stats.studentized_range.sf(size, len(names), freedom)
    pairs[names[one], names[other]] = (difference, float(p))
  return Comparison(
    math.sqrt(variance),
    ratio,
    float(scipy.stats.f.sf(ratio, len(names) - 1, freedom)),
    pairs,
  )


def pooled_spread(scores: Scores) -> float:
  """The standard deviation over seeds, pooled over methods.

  Example, [1, 3] and [5, 5, 8]: squares 2 + 6 over 1 + 2 degrees of freedom
  give sqrt(8 / 3).
  """
  squares = sum(
    (len(group) - 1) * statistics.variance(group)
    for group in scores.values()
    if len(group) > 1
  )
  freedom = sum(len(group) - 1 for group in scores.values())
  return math.sqrt(squares / freedom)


def agreement(
  published: Sequence[str], scores: Scores, comparison: Comparison | None
) -> dict[str, int]:
  """How many pairs are in the published order, of methods that have scores.

  Args:
    published: the methods, best first.
    scores: by method, where less is better.
    comparison: the test of these scores; None finds no difference.

  Returns:
    The number of pairs in the same order (`same`), in the `opposite` order, and
    closer than the seeds allow to say (`undecided`).
  """
  counts = {'same': 0, 'opposite': 0, 'undecided': 0}
  for better, worse in itertools.combinations(published, 2):
    if better not in scores or worse not in scores:
      continue
    tested = min(len(scores[better]), len(scores[worse])) > 1
    if comparison is None or not tested or not comparison.differ(better, worse):
      counts['undecided'] += 1
    elif statistics.fmean(scores[better]) < statistics.fmean(scores[worse]):
      counts['same'] += 1
    else:
      counts['opposite'] += 1
  return counts


def cell(values: Sequence[float], digits: int = 3) -> str:
  """A mean and the standard deviation over seeds as text: '2.246 ± 0.012'."""
  if not values:
    return '-'
  text = f'{statistics.fmean(values):.{digits}f}'
  if len(values) > 1:
    text += f' ± {statistics.stdev(values):.{digits}f}'
  return text
