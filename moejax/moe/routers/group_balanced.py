"""Equally many experts of every group: Pangu's mixture of grouped experts."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.core import errors, fields
from moejax.moe.expert_needs import ExpertNeeds
from moejax.moe.routers import top_k


@dataclasses.dataclass(frozen=True)
class GroupBalanced(top_k.TopK):
  """The k / num_groups largest scores of each group of experts.

  Mixture of grouped experts, MoGE, of Pangu Pro MoE (arXiv 2505.21411, section
  2.2, equations 5 and 6): with a group of experts on each device, every device
  computes the same number of rows for every token, whatever the scores.

    1. the softmax is over all experts
    2. the experts form num_groups groups of consecutive experts; in each group
       the k / num_groups experts with the largest scores are chosen
    3. the gate is the score, as in `TopK`: it is not renormalised

  Example, 4 experts in 2 groups, k=2, scores of one token:

    [.28 .46 .17 .10]   experts 1 and 2; without groups it would be 1 and 0

  The chosen experts are listed by falling score over all groups. Selection
  biases act in step 2 alone. The released inference code multiplies each gate
  by a learned scale of its expert, which is not in the paper and not here.

  Attributes:
    num_groups: groups of equal size; they divide `k`. The published model has
      8 for k=8.
  """

  experts_are_alike: ClassVar[bool] = False

  num_groups: int = fields.number(1, at_least=1)

  def check(self, num_experts: int) -> None:
    super().check(num_experts)
    groups = self.num_groups
    if groups < 1 or num_experts % groups:
      raise errors.InputError(
        f'router.num_groups={groups} does not divide the {num_experts} routed '
        'experts evenly'
      )
    if self.k % groups:
      raise errors.InputError(
        f'router.num_groups={groups} does not divide router.k={self.k}: every '
        'group gives the same number of experts'
      )

  def shrunk(self, num_experts: int) -> 'GroupBalanced':
    groups = 2 if self.num_groups > 1 and num_experts % 2 == 0 else 1
    k = groups if groups > 1 else min(self.k, 2, num_experts)
    return dataclasses.replace(self, k=k, num_groups=groups)

  @property
  def expert_needs(self) -> ExpertNeeds:
    return ExpertNeeds(
      self.k, self.num_groups, self.k // self.num_groups, self.num_groups
    )

  def mask_scores(self, choice_TE: jax.Array) -> jax.Array:
    num_tokens, num_experts = choice_TE.shape
    choice_TGN = choice_TE.reshape(num_tokens, self.num_groups, -1)
    _, best_TGk = jax.lax.top_k(choice_TGN, self.k // self.num_groups)
    place_N = jnp.arange(choice_TGN.shape[-1])
    hit_TGkN = best_TGk[..., None] == place_N
    limited_TGN = jnp.where(hit_TGkN.any(axis=2), choice_TGN, -jnp.inf)
    return limited_TGN.reshape(num_tokens, num_experts)
