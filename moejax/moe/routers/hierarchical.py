"""Two-level gating: a group of experts first, then experts in it."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import errors, fields
from moejax.moe import contract, replay
from moejax.moe.expert_needs import ExpertNeeds
from moejax.moe.routers import scores
from moejax.moe.scorers import SCORERS
from moejax.moe.scorers.base import Scorer


@dataclasses.dataclass(frozen=True)
class Hierarchical(contract.Router):
  """Hierarchical MoE: p(expert) = p(group) p(expert | group).

  HMoE (arXiv 2410.02935) studies softmax and Laplace gates at either level:
  the outer scores come from the scorer `outer`, the inner ones from the layer's
  own scorer. Its sparse recipe, from the released code:

  1. the k_outer best groups; their weights are the softmax of their scores
  2. in each of them its k_inner best experts; their weights are the softmax of
     their scores
  3. weight of an expert = outer weight * inner weight

  Example, E=4, groups {0, 1} and {2, 3}, k_outer=1, k_inner=2:
    outer   [1.0, 0.0]               group 0 with weight 1
    inner   [2.0, 1.0, 5.0, 0.0]     experts 0 and 1 with .7311 and .2689

  With k_outer = groups and k_inner = experts of a group, this is the dense
  gate, whose weights are p. Since steps 1 and 2 renormalise, a level that keeps
  one choice gives it weight 1, and only a balance loss trains the scores of
  that level.

  In the released code the gates' matrices are drawn anew in every pass and
  never trained; here both levels are trained. Groups are runs of consecutive
  experts, as even as possible: expert e is in group e * groups // E. A
  selection bias acts on the choice in step 2.

  `prob_TE` is p over all groups and experts. `extra` has outer_TG, the weights
  of step 1, inner_TE, those of step 2 in all groups, and gate_TE, those of step
  3; they are 0 for groups and experts that are not kept.

  Attributes:
    outer: the scorer of the groups.
    groups: number of groups; 3 in the paper, of 5 experts each.
    k_outer: groups of a token; 2 in the paper.
    k_inner: experts of a token in each of its groups; 4 in the paper.
  """

  experts_are_alike: ClassVar[bool] = False
  replays: ClassVar[bool] = True

  outer: Scorer = fields.choice(SCORERS, SCORERS['linear']())
  groups: int = fields.number(2, at_least=1)
  k_outer: int = fields.number(2, at_least=1)
  k_inner: int = fields.number(2, at_least=1)

  def __post_init__(self):
    super().__post_init__()
    if self.k_outer > self.groups:
      raise errors.InputError(
        f'k_outer={self.k_outer} is more than groups={self.groups}'
      )

  def check(self, num_experts: int) -> None:
    if self.k_inner > num_experts // self.groups:
      raise errors.InputError(
        f'router.k_inner={self.k_inner} experts of a group, but '
        f'{num_experts} experts in router.groups={self.groups} make a group of '
        f'{num_experts // self.groups}'
      )
    scores.check_gates(
      self.k_outer == self.k_inner == 1,
      num_experts,
      'router.k_outer=1 with router.k_inner=1',
      'set one of them to 2 or more',
    )

  def shrunk(self, num_experts: int) -> 'Hierarchical':
    groups = min(self.groups, 2, num_experts)
    return dataclasses.replace(
      self,
      groups=groups,
      k_outer=min(self.k_outer, groups),
      k_inner=min(self.k_inner, 2, num_experts // groups),
    )

  def extra_scorers(self, num_experts: int) -> dict[str, tuple[Scorer, int]]:
    del num_experts
    return {'outer': (self.outer, self.groups)}

  @property
  def experts_per_token(self) -> float:
    return self.k_outer * self.k_inner

  @property
  def expert_needs(self) -> ExpertNeeds:
    return ExpertNeeds(
      self.groups * self.k_inner, self.groups, self.k_inner, self.groups
    )

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    num_tokens, num_experts = inputs.logits_TE.shape
    group_E = np.arange(num_experts) * self.groups // num_experts
    outer_TG, group_TK = _top_softmax(
      inputs.extra_scores['outer'],
      inputs.extra_scores['outer'],
      self.k_outer,
      self._replayed_groups(inputs, group_E),
    )
    inner_TE, expert_TGJ = self.choose_inner(inputs, group_E)
    gate_TE = outer_TG[:, group_E] * inner_TE

    expert_TKJ = jnp.take_along_axis(expert_TGJ, group_TK[..., None], axis=1)
    expert_TA = expert_TKJ.reshape(num_tokens, -1)
    expert_TA, _ = replay.choice(inputs.replayed, expert_TA)
    return contract.token_choice(
      inputs,
      expert_TA,
      jnp.take_along_axis(gate_TE, expert_TA, axis=1),
      self.joint(inputs, group_E),
      {'outer_TG': outer_TG, 'inner_TE': inner_TE, 'gate_TE': gate_TE},
    )

  def choose_inner(
    self, inputs: contract.RouterInput, group_E: np.ndarray
  ) -> tuple[jax.Array, jax.Array]:
    """Step 2 in every group.

    Returns:
      inner_TE, 0 where not kept in the expert's group, and the kept experts
      [T, groups, k_inner].
    """
    replayed_TE = None
    if inputs.replayed is not None:
      replayed_TE = inputs.replayed.chosen(len(group_E))
    inner_TE, kept_TGJ = [], []
    biased_TE = inputs.biased(self.softmax_in_groups(inputs, group_E))
    for group in range(self.groups):
      (member_M,) = np.nonzero(group_E == group)
      gate_TM, kept_TJ = _top_softmax(
        inputs.logits_TE[:, member_M],
        biased_TE[:, member_M],
        self.k_inner,
        None if replayed_TE is None else replayed_TE[:, member_M],
      )
      inner_TE.append(gate_TM)
      kept_TGJ.append(member_M[0] + kept_TJ)
    return jnp.concatenate(inner_TE, axis=1), jnp.stack(kept_TGJ, axis=1)

  def _replayed_groups(
    self, inputs: contract.RouterInput, group_E: np.ndarray
  ) -> jax.Array | None:
    """Whether a recorded expert is in the group, bool [T, groups]."""
    if inputs.replayed is None:
      return None
    chosen_TE = inputs.replayed.chosen(len(group_E))
    member_EG = group_E[:, None] == np.arange(self.groups)
    return jnp.any(chosen_TE[..., None] & member_EG, axis=1)

  def softmax_in_groups(
    self, inputs: contract.RouterInput, group_E: np.ndarray
  ) -> jax.Array:
    """p(expert | group), [T, E]."""
    groups = np.split(
      np.arange(len(group_E)), np.nonzero(np.diff(group_E))[0] + 1
    )
    return jnp.concatenate(
      [jax.nn.softmax(inputs.logits_TE[:, group], axis=1) for group in groups],
      axis=1,
    )

  def joint(
    self, inputs: contract.RouterInput, group_E: np.ndarray
  ) -> jax.Array:
    """p(group) p(expert | group) of all groups and experts, [T, E]."""
    outer_TG = jax.nn.softmax(inputs.extra_scores['outer'], axis=1)
    return outer_TG[:, group_E] * self.softmax_in_groups(inputs, group_E)


def _top_softmax(
  score_TN: jax.Array,
  rank_TN: jax.Array,
  k: int,
  replayed_TN: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Softmax over the scores of the k that rank best, and which these are.

  Args:
    score_TN: the scores.
    rank_TN: values by whose order the k are chosen.
    k: number of scores that are kept.
    replayed_TN: bool, the scores that are kept instead, if there are any.

  Returns:
    The softmax, [T, N], 0 for scores that are not kept; and best_TK.
  """
  num = score_TN.shape[1]
  _, best_TK = jax.lax.top_k(jax.lax.stop_gradient(rank_TN), k)
  kept_TN = jnp.any(best_TK[..., None] == jnp.arange(num), axis=1)
  if replayed_TN is not None:
    # A row without any would divide 0 by 0.
    some_T1 = jnp.any(replayed_TN, axis=1, keepdims=True)
    soft_TN = jax.nn.softmax(
      score_TN, axis=1, where=jnp.where(some_T1, replayed_TN, kept_TN)
    )
    return jnp.where(some_T1, soft_TN, 0.0), best_TK
  return jax.nn.softmax(score_TN, axis=1, where=kept_TN), best_TK
