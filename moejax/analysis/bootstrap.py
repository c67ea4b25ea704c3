"""Bootstrap intervals of means over tokens, with documents as the units.

The tokens of a document are alike, so that an interval over tokens would be too
narrow. Here whole documents are drawn with replacement, as many as there are,
`DRAWS` times; the interval runs from the 2.5th to the 97.5th percentile of the
means (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter
13). A mean is the sum over the drawn tokens over their number, so that longer
documents weigh more.

With more than `MAX_UNITS` documents, documents are joined at random to that
many units, which are drawn in their place: the time does not grow with their
number, and the interval is the same but for noise.
"""

import dataclasses
import functools
import warnings

import numpy as np

DRAWS = 1000
MAX_UNITS = 2000
PERCENTILES = (2.5, 97.5)


@dataclasses.dataclass(frozen=True)
class Mean:
  """A mean and its 95% interval; NaN where one has no definition."""

  value: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class LayerMeans:
  """The mean of each layer, and the mean of these means."""

  layers: list[Mean]
  all: Mean


@dataclasses.dataclass(frozen=True)
class Documents:
  """The units that are drawn.

  Attributes:
    unit_T: the unit of each token, from 0.
    num: number of units.
    seed: of the draws.
  """

  unit_T: np.ndarray
  num: int
  seed: int = 0

  @classmethod
  def of(cls, document_T: np.ndarray, seed: int = 0) -> 'Documents':
    """The units for tokens of these documents, which any numbers name."""
    distinct, unit_T = np.unique(document_T, return_inverse=True)
    num = len(distinct)
    if num > MAX_UNITS:
      unit_of = np.random.default_rng(seed).permutation(num) % MAX_UNITS
      unit_T, num = unit_of[unit_T], MAX_UNITS
    return cls(unit_T.astype(np.int64), num, seed)

  @functools.cached_property
  def draws(self) -> np.ndarray:
    """draw_BU: how often each draw has each unit, float64 [DRAWS, units]."""
    rng = np.random.default_rng([self.seed, self.num])
    if not self.num:
      return np.zeros((DRAWS, 0))
    equal_U = np.full(self.num, 1 / self.num)
    return rng.multinomial(self.num, equal_U, size=DRAWS).astype(np.float64)

  def sums(
    self,
    value_T: np.ndarray,
    keep_T: np.ndarray | None = None,
    group_T: np.ndarray | None = None,
    groups: int = 1,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the values, and their numbers, by unit and group: [U, groups].

    Args:
      value_T: one value for each token.
      keep_T: bool, the tokens that count; None counts all.
      group_T: group of each token, from 0; None puts all in group 0.
      groups: number of groups.
    """
    place_T = self.unit_T * groups
    if group_T is not None:
      place_T = place_T + group_T
    if keep_T is not None and not keep_T.all():
      place_T, value_T = place_T[keep_T], value_T[keep_T]
    size = self.num * groups
    total = np.bincount(place_T, weights=value_T, minlength=size)
    count = np.bincount(place_T, minlength=size).astype(np.float64)
    shape = (self.num, groups)
    return total.reshape(shape), count.reshape(shape)

  def drawn(self, sum_UC: np.ndarray, count_UC: np.ndarray) -> np.ndarray:
    """mean_BC: the means of each draw; NaN where it has no token."""
    with np.errstate(invalid='ignore', divide='ignore'):
      return (self.draws @ sum_UC) / (self.draws @ count_UC)

  def interval(self, mean_BC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """low_C and high_C; NaN with fewer than two units."""
    if self.num < 2 or not mean_BC.size:
      nothing = np.full(mean_BC.shape[1:], np.nan)
      return nothing, nothing
    if not np.isnan(mean_BC).any():
      # Many times faster than `nanpercentile`, which goes column by column.
      low, high = np.percentile(mean_BC, PERCENTILES, axis=0)
      return low, high
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', RuntimeWarning)  # of all NaN
      low, high = np.nanpercentile(mean_BC, PERCENTILES, axis=0)
    return low, high

  def layer_means(self, sum_UN: np.ndarray, count_UN: np.ndarray) -> LayerMeans:
    """Means of columns that are layers, and the mean of these.

    Layers without a token are left out of the mean over layers.
    """
    mean_BN = self.drawn(sum_UN, count_UN)
    with warnings.catch_warnings(), np.errstate(invalid='ignore'):
      warnings.simplefilter('ignore', RuntimeWarning)  # of all NaN
      mean_N = sum_UN.sum(axis=0) / count_UN.sum(axis=0)
      all_value = float(np.nanmean(mean_N)) if len(mean_N) else np.nan
      all_B1 = np.nanmean(mean_BN, axis=1, keepdims=True)
    low_N, high_N = self.interval(mean_BN)
    low_1, high_1 = self.interval(all_B1)
    layers = [
      Mean(float(mean), float(low), float(high))
      for mean, low, high in zip(mean_N, low_N, high_N, strict=True)
    ]
    return LayerMeans(
      layers, Mean(all_value, float(low_1[0]), float(high_1[0]))
    )


class LayerSums:
  """Sums of one value by document, gathered layer by layer."""

  def __init__(self, documents: Documents):
    self._documents = documents
    self._columns: list[tuple[np.ndarray, np.ndarray]] = []

  def add(self, value_T: np.ndarray, keep_T: np.ndarray | None = None) -> None:
    """Adds the values of the next layer; `keep_T` says which tokens count."""
    self._columns.append(self._documents.sums(value_T, keep_T))

  def means(self) -> LayerMeans:
    """The means of the layers that were added."""
    empty = np.zeros((self._documents.num, 0))
    total_UN, count_UN = (
      (
        np.concatenate([empty, *arrays], axis=1)
        for arrays in zip(*self._columns, strict=True)
      )
      if self._columns
      else (empty, empty)
    )
    return self._documents.layer_means(total_UN, count_UN)
