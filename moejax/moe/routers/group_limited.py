"""Top k among the experts of the best groups: DeepSeek-V2 and V3."""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.core import errors, fields
from moejax.moe import contract
from moejax.moe.expert_needs import ExpertNeeds
from moejax.moe.routers import top_k

# (choice_TGN, k, kept_groups) -> score_TG: the scores of groups of N experts,
# from the scores of their experts.
GroupScore = Callable[[jax.Array, int, int], jax.Array]


def best(choice_TGN: jax.Array, k: int, kept_groups: int) -> jax.Array:
  """The largest score in the group: DeepSeek-V2."""
  del k, kept_groups
  return choice_TGN.max(axis=-1)


def top2_sum(choice_TGN: jax.Array, k: int, kept_groups: int) -> jax.Array:
  """The sum of the two largest scores in the group: DeepSeek-V3."""
  del k, kept_groups
  return _sum_of(choice_TGN, 2)


def share_sum(choice_TGN: jax.Array, k: int, kept_groups: int) -> jax.Array:
  """The sum of the k / kept_groups largest: V3's text, and Megatron."""
  return _sum_of(choice_TGN, max(1, k // kept_groups))


def _sum_of(choice_TGN: jax.Array, num: int) -> jax.Array:
  best_TGn, _ = jax.lax.top_k(choice_TGN, min(num, choice_TGN.shape[-1]))
  return best_TGn.sum(axis=-1)


GROUP_SCORES: dict[str, GroupScore] = {
  'max': best,
  'share_sum': share_sum,
  'top2_sum': top2_sum,
}
# How many experts' scores make a group's score; None: k / kept_groups.
NUM_SUMMED: dict[str, int | None] = {
  'max': 1,
  'share_sum': None,
  'top2_sum': 2,
}


@dataclasses.dataclass(frozen=True)
class GroupLimited(top_k.TopK):
  """The k largest scores among the experts of the best groups.

  DeepSeek-V2 (arXiv 2405.04434, section 2.2.2) calls it device-limited: the
  experts of a layer lie on D devices, a token is sent to M of them at most.

    1. the experts form num_groups groups of consecutive experts; a group's
       score is that of its best expert, or a sum over its best (`group_score`)
    2. the kept_groups best groups are kept
    3. the k largest scores among their experts are chosen; gates as in `TopK`

  Example, 4 experts in 2 groups, kept_groups=1, k=2, scores of one token:

    [.28 .46 .17 .10]   groups .46 and .17, so experts 1 and 0
    [.06 .17 .47 .29]   groups .17 and .47, so experts 2 and 3

  Selection biases are added to the scores in 1 to 3, not to gates.

  Published routers:

    DeepSeek-V2   num_groups=8, kept_groups=3, k=6, group_score=max, scale=16;
                  the softmax is over all experts, before groups are left out
    DeepSeek-V3   num_groups=8, kept_groups=4, k=8, group_score=top2_sum,
                  score=sigmoid, renormalise, scale=2.5 (arXiv 2412.19437,
                  section 2.1.2, equations 12 to 16), and a bias
    Megatron      group_score=share_sum: a sum of two for V2 as well

  `extra` holds `unbiased_TK`, see `TopK`, if there is a selection bias and for
  all scores but softmax: V3's sequence-wise loss counts the k largest unbiased
  scores of all groups. V2's losses count the chosen experts.

  Attributes:
    num_groups: groups of equal size.
    kept_groups: groups whose experts a token may use.
    group_score: how a group's score is made of its experts' scores, see
      `GROUP_SCORES`.
  """

  experts_are_alike: ClassVar[bool] = False

  num_groups: int = fields.number(1, at_least=1)
  kept_groups: int = fields.number(1, at_least=1)
  group_score: str = fields.named(GROUP_SCORES, 'max')

  def check(self, num_experts: int) -> None:
    super().check(num_experts)
    groups, kept = self.num_groups, self.kept_groups
    if groups < 1 or num_experts % groups:
      raise errors.InputError(
        f'router.num_groups={groups} does not divide the {num_experts} routed '
        'experts evenly'
      )
    if not 1 <= kept <= groups:
      raise errors.InputError(
        f'router.kept_groups={kept} must be 1 to router.num_groups={groups}'
      )
    left = kept * (num_experts // groups)
    if self.k > left:
      raise errors.InputError(
        f'router.k={self.k} experts per token, but router.kept_groups={kept} '
        f'of {groups} groups have only {left}; keep more groups or lower k'
      )

  def shrunk(self, num_experts: int) -> 'GroupLimited':
    groups = math.gcd(self.num_groups, num_experts)
    kept = max(1, self.kept_groups * groups // self.num_groups)
    k = min(self.k, 2, kept * (num_experts // groups))
    return dataclasses.replace(self, k=k, num_groups=groups, kept_groups=kept)

  @property
  def expert_needs(self) -> ExpertNeeds:
    """Any `kept_groups` groups hold k experts, and each as many as it sums."""
    num_summed = NUM_SUMMED[self.group_score] or 1
    per_group = max(math.ceil(self.k / self.kept_groups), num_summed)
    return ExpertNeeds(self.k, self.num_groups, per_group, self.kept_groups)

  def with_groups(self, num_groups: int) -> 'GroupLimited':
    return dataclasses.replace(self, num_groups=num_groups)

  def mask_scores(self, choice_TE: jax.Array) -> jax.Array:
    num_tokens, num_experts = choice_TE.shape
    choice_TGN = choice_TE.reshape(num_tokens, self.num_groups, -1)
    score = GROUP_SCORES[self.group_score]
    score_TG = score(choice_TGN, self.k, self.kept_groups)
    _, kept_TM = jax.lax.top_k(score_TG, self.kept_groups)
    hit_TMG = kept_TM[:, :, None] == jnp.arange(self.num_groups)
    kept_TG1 = hit_TMG.any(axis=1)[:, :, None]
    limited_TGN = jnp.where(kept_TG1, choice_TGN, -jnp.inf)
    return limited_TGN.reshape(num_tokens, num_experts)

  def reports_unbiased(self, inputs: contract.RouterInput) -> bool:
    return super().reports_unbiased(inputs) or self.score != 'softmax'
