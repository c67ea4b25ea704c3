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
lost theirs. No choice here lets that happen: every group keeps its `per_group`
best experts before anything else is kept, and the rest goes by score. With a
mask the groups stay as they were, and may keep different numbers. If weights
are removed the groups must be of one size again: `equal_groups` keeps
keep / num_groups in each.
"""

import dataclasses
import math
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
    per_group: experts in each group.
  """

  at_least: int = 1
  num_groups: int = 1
  per_group: int = 0

  @classmethod
  def group_limited(
    cls, k: int, num_groups: int, kept_groups: int, summed: int = 1
  ) -> 'RouterNeeds':
    """The needs of a router that takes k experts of kept_groups groups.

    Any kept_groups groups must hold k experts, so each needs k / kept_groups,
    rounded up. A group's score sums its `summed` best experts (1 for
    DeepSeek-V2, 2 for V3), and a group with fewer is never chosen.
    """
    per_group = max(math.ceil(k / kept_groups), summed)
    return cls(max(k, per_group * num_groups), num_groups, per_group)

  @property
  def smallest(self) -> int:
    """The smallest number of experts that a layer can work with."""
    return max(1, self.at_least, self.num_groups * self.per_group)

  def equal_groups(self, keep: int) -> 'RouterNeeds':
    """The same needs, with the same number of experts in every group.

    Raises:
      InputError: the number of groups does not divide `keep`.
    """
    if keep % self.num_groups:
      raise errors.InputError(
        f'keep={keep} experts cannot be shared evenly by the '
        f"router's {self.num_groups} groups; keep a multiple of "
        f'{self.num_groups}, or mask experts instead of removing them'
      )
    per_group = max(self.per_group, keep // self.num_groups)
    return dataclasses.replace(self, per_group=per_group)


# The need of a router that keeps all its rows, as in M-SMoE.
ONE_EXPERT = RouterNeeds()

Choice = Callable[[np.ndarray, int, RouterNeeds], np.ndarray]


def uniform(
  score_NE: np.ndarray, keep: int, needs: RouterNeeds = ONE_EXPERT
) -> np.ndarray:
  """The `keep` best experts of every layer (EASY-EP, arXiv 2504.06792)."""
  check_keep(keep, score_NE.shape[1], needs)
  kept_NE = _best_of_groups(score_NE, needs)
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
  score_NE = np.asarray(score_NE, np.float64)
  check_keep(keep, score_NE.shape[1], needs)
  kept_NE = _best_of_groups(score_NE, needs)
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
      f'needs in each of its {needs.num_groups} groups; keep {needs.smallest} '
      'at least'
    )


def check_kept(
  kept_NE: np.ndarray, needs: RouterNeeds, first_layer: int = 0
) -> None:
  """Raises InputError, one line, if a router cannot work with a choice.

  It is for choices from elsewhere, such as published masks; those of CHOICES
  pass.

  Args:
    kept_NE: bool, the experts that stay.
    needs: of the router.
    first_layer: number of the first of the N layers in the model.
  """
  for n, kept_E in enumerate(kept_NE):
    layer, kept = first_layer + n, int(kept_E.sum())
    if kept < max(1, needs.at_least):
      raise errors.InputError(
        f'layer {layer} keeps {kept} experts, but its router needs '
        f'{max(1, needs.at_least)}; keep more'
      )
    for group, kept_M in enumerate(kept_E.reshape(needs.num_groups, -1)):
      if kept_M.sum() < needs.per_group:
        raise errors.InputError(
          f'group {group} of layer {layer} keeps {kept_M.sum()} experts, but '
          f'the router needs {needs.per_group} in each group; keep more of it'
        )


def _best_of_groups(score_NE: np.ndarray, needs: RouterNeeds) -> np.ndarray:
  """kept_NE with the `per_group` best experts of each group, and no others."""
  kept_NE = np.zeros(score_NE.shape, bool)
  if needs.per_group:
    groups = lambda x: x.reshape(-1, x.shape[1] // needs.num_groups)
    for kept_M, score_M in zip(
      groups(kept_NE), groups(np.asarray(score_NE)), strict=True
    ):
      _fill(kept_M, score_M, needs.per_group)
  return kept_NE


def _fill(kept_E: np.ndarray, score_E: np.ndarray, num: int) -> None:
  """Keeps the best of the others, in place, until `num` are kept."""
  missing = max(0, num - int(kept_E.sum()))
  order = np.argsort(-np.where(kept_E, -np.inf, score_E), kind='stable')
  kept_E[order[:missing]] = True
