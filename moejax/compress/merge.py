"""Merging: the experts of a layer become fewer, each the mean of a group."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from moejax.compress import alignment
from moejax.compress.grouping import GROUPINGS
from moejax.compress.importance import Weights
from moejax.compress.means import MEANS
from moejax.compress.statistics import ExpertStatistics
from moejax.core import errors, table


@dataclasses.dataclass(frozen=True)
class MergeOptions:
  """How experts are merged; the defaults are M-SMoE's (arXiv 2310.01334).

  Attributes:
    grouping: an entry of GROUPINGS.
    mean: an entry of MEANS.
    capacity: largest number of experts in a group; 0 for no limit.
    align: whether hidden units are aligned with those of expert 0 first.
  """

  grouping: str = 'router_logits'
  mean: str = 'frequency'
  capacity: int = 0
  align: bool = True


# M-SMoE as published.
M_SMOE = MergeOptions()


@dataclasses.dataclass(frozen=True)
class MergedLayer:
  """The experts of a layer after merging, and where each old one went.

  A model is made of it in one of two ways:

    shared   the router stays as it is, with E logits. Whatever it assigns to
             expert e is computed by merged expert index_E[e]; a token that has
             two members of a group gets the sum of their gates. This is
             M-SMoE's. `expanded` gives weights for it that any layer runs.
    cut      the router has G logits: the row of the dominant expert of each
             group is kept (`kept_rows`), those of the other members are
             removed. Fewer experts compete, so gates and choices change.

  Attributes:
    experts: by name, arrays of the G merged experts, [G, ...].
    index_E: int, the merged expert that stands for each old one.
    dominant_G: int, rising, the old index of each group's dominant expert.
  """

  experts: dict[str, np.ndarray]
  index_E: np.ndarray
  dominant_G: np.ndarray

  def expanded(self) -> dict[str, np.ndarray]:
    """[E, ...] by name: a copy of its merged expert for each old one."""
    return {name: array[self.index_E] for name, array in self.experts.items()}


def merge_layer(
  statistics: ExpertStatistics,
  weights: Weights,
  layer: int,
  dominant_E: np.ndarray,
  options: MergeOptions = M_SMOE,
) -> MergedLayer:
  """Merges every expert of a layer into its most similar dominant expert.

  A group of one expert is left as it is, to the bit. A merged expert lists its
  hidden units in the order of its dominant expert.

  Args:
    statistics: of the text that matters, see `domains.pooled` for several.
    weights: arrays of the layer by name; those of the router are not read.
    layer: n, the row of the statistics.
    dominant_E: bool, from `CHOICES['adaptive']` for M-SMoE.
    options: of the merge.

  Raises:
    InputError: experts that are unlike, an unknown grouping or mean, groups
      without room, or statistics of another number of experts.
  """
  grouping = table.lookup('grouping', GROUPINGS, options.grouping)
  mean = table.lookup('mean', MEANS, options.mean)
  experts = alignment.expert_arrays(weights)
  num = len(next(iter(experts.values())))
  if num != statistics.num_experts:
    raise errors.InputError(
      f'the statistics are of {statistics.num_experts} experts, but layer '
      f'{statistics.first_layer + layer} has {num}; collect them anew'
    )
  dominant_G = np.flatnonzero(dominant_E)
  aligned, order_EF = experts, None
  if options.align and len(dominant_G) < num:
    order_EF = alignment.orders(experts)
    aligned = alignment.reordered(experts, order_EF)
  group_E = grouping(
    statistics, {**weights, **aligned}, layer, dominant_E, options.capacity
  )
  merged = [
    _merged_group(experts, order_EF, members, mean, statistics.count_NE[layer])
    for members in (_members(group_E, int(i)) for i in dominant_G)
  ]
  return MergedLayer(
    {name: np.stack([group[name] for group in merged]) for name in experts},
    np.searchsorted(dominant_G, group_E),
    dominant_G,
  )


def kept_rows(
  router: Mapping[str, np.ndarray], dominant_G: np.ndarray
) -> dict[str, np.ndarray]:
  """A router's arrays with the rows of the dominant experts alone.

  The axes are read from the names, as in `w_DE`, `b_E`; arrays without an axis
  E are returned as they are.
  """
  return {
    name: np.take(array, dominant_G, axis=alignment.axes_of(name).index('E'))
    if 'E' in alignment.axes_of(name)
    else array
    for name, array in router.items()
  }


def _members(group_E: np.ndarray, dominant: int) -> np.ndarray:
  """The members of a group, the dominant expert first."""
  members = np.flatnonzero(group_E == dominant)
  return np.concatenate([[dominant], members[members != dominant]])


def _merged_group(experts, order_EF, members, mean, count_E):
  """The arrays of one merged expert, its units as the dominant one has them."""
  group = {name: array[members] for name, array in experts.items()}
  if order_EF is not None:
    back_F = np.argsort(order_EF[members[0]])
    group = alignment.reordered(group, order_EF[members][:, back_F])
  return mean(group, count_E[members])
