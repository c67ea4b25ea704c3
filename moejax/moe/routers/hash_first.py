"""DeepSeek-V4's router: by token id in the first layers, then learned."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.core import fields
from moejax.moe import contract, replay
from moejax.moe.routers import fixed_k, hashing, scores
from moejax.moe.routers import hash as hashes


@dataclasses.dataclass(frozen=True)
class HashFirst(fixed_k.FixedK):
  """Top k of sqrt(softplus(logit)); in the first layers, experts by a hash.

  DeepSeek-V4 (report of 2026, section 2.1, and the released model's code):

  1. score   s = sqrt(softplus(logit))
  2. choose  in the first `num_hash_layers` layers with experts, k experts that
             depend on the token's id alone; in the others the top k of s + bias
  3. weight  s / (sum of the chosen s) * scale: learned in all layers

  The released models store the map from ids to experts in the checkpoint, and
  how it was made is not published; here it is a hash of (seed, layer, id), see
  `routers.hash`. The probabilities are s over its sum, as in DeepSeek-V3's
  balance loss. `extra` holds `unbiased_TK`, the experts of the k largest s,
  which that loss counts: without bias, and without the hash even in the layers
  that choose by id.

  Those layers have no bias in the released models. Here all layers are one
  stack, so a bias rule updates a bias there too. It has no effect on the
  routing, but the range of biases in the metrics includes it.

  Attributes:
    k: experts per token; 6 in both sizes.
    num_hash_layers: number of layers that choose by id; 3 in both sizes.
    scale: routed scaling factor; 1.5 in Flash.
    seed: another seed gives another map.
  """

  experts_are_alike: ClassVar[bool] = False
  reads_token_ids: ClassVar[bool] = True
  replays: ClassVar[bool] = True
  keeps_experts: ClassVar[str] = (
    "its first layers find experts by a hash of the token's id and their "
    'number, so there is no score by which another expert would follow'
  )

  num_hash_layers: int = fields.number(3, at_least=0)
  scale: float = fields.number(1.5, above=0, at_most=1000)
  seed: int = fields.number(0, at_least=0)

  def check(self, num_experts: int) -> None:
    super().check(num_experts)
    scores.check_gates(
      self.k == 1,
      num_experts,
      'router.k=1 of hash_first, which divides the chosen scores by their sum,',
      'set router.k=2 or more',
    )

  @property
  def chooses_by(self) -> str:
    return 'sqrt_softplus'

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    score_TE, prob_TE = scores.sqrt_softplus(inputs.logits_TE)
    _, learned_TK = jax.lax.top_k(inputs.biased(score_TE), self.k)
    hashed_TK = hashing.distinct(
      score_TE.shape[1], self.k, self.seed, inputs.layer, hashes.ids(inputs)
    )
    by_id = inputs.layer < self.num_hash_layers
    expert_TK, is_used_TK = replay.choice(
      inputs.replayed, jnp.where(by_id, hashed_TK, learned_TK)
    )
    return contract.token_choice(
      inputs,
      expert_TK,
      self.gates(score_TE, expert_TK, is_used_TK),
      prob_TE,
      {'unbiased_TK': scores.largest(inputs, score_TE, self.k)},
    )

  def gates(
    self,
    score_TE: jax.Array,
    expert_TK: jax.Array,
    is_used_TK: jax.Array | None = None,
  ) -> jax.Array:
    """Step 3 for these experts, or those of them that are used, [T, K]."""
    score_TK = scores.kept(scores.take(score_TE, expert_TK), is_used_TK)
    return self.scale * scores.renormalised(score_TK)
