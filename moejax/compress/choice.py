"""CHOICES: which experts of each layer stay, from their scores.

An entry is a function (score_NE, keep, needs) -> kept_NE, bool:

  score_NE   scores of N layers, larger for experts that matter more
  keep       experts per layer; for entries that divide a budget over layers,
             their average
  needs      `RouterNeeds`: what every layer must keep for its router to work

All entries keep keep * N experts in total. Of equal scores that of the lower
layer, then of the lower expert, is taken first.

Groups of a router. A group-limited router first chooses groups of consecutive
experts and then experts in them, so a token may get stuck in groups that have
lost theirs. `RouterNeeds.for_budget` says how many groups a budget can fill,
and all choices keep to it:

  all, if it can   every group keeps its `per_group` best experts before any
                   other is kept, and the rest goes by score
  fewer            those groups of a layer stay whose `per_group` best experts
                   have the largest sum of scores. The others lose all their
                   experts, and the router loses the groups

If weights are removed, the groups that stay must be of one size again, so each
keeps the same number. With a mask they may keep different numbers.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from moejax.compress.statistics import normalised
from moejax.core import errors


@dataclasses.dataclass(frozen=True)
class RouterNeeds:
  """What a router needs of the experts that stay in a layer.

  Attributes:
    at_least: experts in a layer; the router's k if experts are removed.
    num_groups: groups of consecutive experts; 1 for routers without groups.
    per_group: experts in each group that stays.
    least_groups: groups that must stay; 0 for all.
    groups: groups that stay, see `for_budget`; 0 if that is not decided.
  """

  at_least: int = 1
  num_groups: int = 1
  per_group: int = 0
  least_groups: int = 0
  groups: int = 0

  @property
  def smallest(self) -> int:
    """The smallest number of experts that a layer can work with."""
    groups = self.groups or self.least_groups or self.num_groups
    return max(1, self.at_least, groups * self.per_group)

  def for_budget(
    self, keep: int, num_experts: int, *, equal: bool = True
  ) -> 'RouterNeeds':
    """The same needs, with the number of groups that `keep` experts can fill.

    Args:
      keep: experts of a layer, after `check_keep`.
      num_experts: of a layer before.
      equal: whether all groups that stay keep equally many experts.

    Raises:
      InputError: `keep` experts do not fill any number of groups.
    """
    if self.num_groups == 1:
      return self
    size = num_experts // self.num_groups
    most = min(self.num_groups, max(1, keep // max(1, self.per_group)))
    # Where all groups can stay, none is removed to make a number fit.
    least = most if most == self.num_groups else self.least_groups
    for groups in range(most, max(1, least) - 1, -1):
      if equal and not keep % groups and keep <= groups * size:
        return dataclasses.replace(
          self, groups=groups, per_group=keep // groups
        )
      if not equal and keep <= groups * size:
        return dataclasses.replace(self, groups=groups)
    step = most if equal else 1
    below = min(keep, most * size) // step * step
    raise errors.InputError(
      f"keep={keep} experts cannot be shared evenly by {most} of the router's "
      f'{self.num_groups} groups of {size}; keep {below}'
      + (f' or {below + step}' if below < most * size else '')
      + (', or write the choice alone with --mask' if equal else '')
    )


# The need of a router that keeps all its rows, as in M-SMoE.
ONE_EXPERT = RouterNeeds()

Choice = Callable[[np.ndarray, int, RouterNeeds], np.ndarray]


def uniform(
  score_NE: np.ndarray, keep: int, needs: RouterNeeds = ONE_EXPERT
) -> np.ndarray:
  """The `keep` best experts of every layer (EASY-EP, arXiv 2504.06792)."""
  check_keep(keep, score_NE.shape[1], needs)
  kept_NE, score_NE = _begun(score_NE, needs)
  for kept_E, score_E in zip(kept_NE, score_NE, strict=True):
    _fill(kept_E, score_E, keep)
  return kept_NE


def global_(
  score_NE: np.ndarray, keep: int, needs: RouterNeeds = ONE_EXPERT
) -> np.ndarray:
  """The keep * N best experts of all layers, by their scores as they are.

  Every layer first keeps what its router needs. Scores must be comparable over
  layers; those of `domains.mixed` sum to 1 in each.
  """
  check_keep(keep, score_NE.shape[1], needs)
  kept_NE, score_NE = _begun(score_NE, needs)
  for kept_E, score_E in zip(kept_NE, score_NE, strict=True):
    _fill(kept_E, score_E, needs.smallest)
  _fill(kept_NE.reshape(-1), score_NE.reshape(-1), keep * len(score_NE))
  return kept_NE


def adaptive(
  score_NE: np.ndarray, keep: int, needs: RouterNeeds = ONE_EXPERT
) -> np.ndarray:
  """M-SMoE's dominant experts (arXiv 2310.01334, section 3.1).

  Scores become shares of their layer, alpha if they are frequencies. The share
  of the best expert of each layer is set to 1, so that every layer keeps one.
  The keep * N largest shares of all layers stay. Layers that M-SMoE leaves
  alone are left out of `score_NE`.

  Where a router needs more than one expert, as many of each layer are set to 1,
  which is not in the paper.
  """
  return global_(normalised(score_NE), keep, needs)


CHOICES: dict[str, Choice] = {
  'uniform': uniform,
  'global': global_,
  'adaptive': adaptive,
}


def check_keep(keep: int, num_experts: int, needs: RouterNeeds) -> None:
  """Raises InputError, one line, if so many experts cannot be kept."""
  if keep < 1:
    raise errors.InputError(
      f'keep={keep}: at least one expert of a layer must stay; keep 1 to '
      f'{num_experts}'
    )
  if keep > num_experts:
    raise errors.InputError(
      f'keep={keep} of {num_experts} experts: keep {num_experts} at most'
    )
  if num_experts % needs.num_groups:
    raise errors.InputError(
      f'{num_experts} experts do not form {needs.num_groups} groups of one size'
    )
  if keep < needs.at_least:
    raise errors.InputError(
      f'keep={keep} is less than the {needs.at_least} experts per layer that '
      f'the router needs; keep {needs.smallest} at least'
    )
  if keep < needs.smallest:
    raise errors.InputError(
      f'keep={keep} is less than the {needs.per_group} experts that the router '
      f'needs in each of {needs.least_groups or needs.num_groups} groups; keep '
      f'{needs.smallest} at least'
    )


def _begun(
  score_NE: np.ndarray, needs: RouterNeeds
) -> tuple[np.ndarray, np.ndarray]:
  """kept_NE with what the groups need, and the scores of all others.

  The experts of groups that do not stay have the score -inf.
  """
  score_NE = np.asarray(score_NE, np.float64)
  kept_NE = np.zeros(score_NE.shape, bool)
  if not needs.per_group:
    return kept_NE, score_NE
  groups = len(score_NE), needs.num_groups, -1
  kept_NGM, score_NGM = kept_NE.reshape(groups), score_NE.reshape(groups)
  for kept_GM, score_GM in zip(kept_NGM, score_NGM, strict=True):
    for kept_M, score_M in zip(kept_GM, score_GM, strict=True):
      _fill(kept_M, score_M, needs.per_group)
  if not 0 < needs.groups < needs.num_groups:
    return kept_NE, score_NE
  total_NG = np.where(kept_NGM, score_NGM, 0).sum(axis=-1)
  order_NG = np.argsort(-total_NG, axis=-1, kind='stable')
  goes_NG = np.zeros(total_NG.shape, bool)
  np.put_along_axis(goes_NG, order_NG[:, needs.groups :], True, axis=-1)
  goes_NG1 = goes_NG[..., None]
  return (
    (kept_NGM & ~goes_NG1).reshape(score_NE.shape),
    np.where(goes_NG1, -np.inf, score_NGM).reshape(score_NE.shape),
  )


def _fill(kept_E: np.ndarray, score_E: np.ndarray, num: int) -> None:
  """Keeps the best of the others, in place, until `num` are kept."""
  missing = max(0, num - int(kept_E.sum()))
  order = np.argsort(-np.where(kept_E, -np.inf, score_E), kind='stable')
  kept_E[order[:missing]] = True
