"""Top-p routing: the fewest experts whose probabilities reach p."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.core import fields
from moejax.moe import contract
from moejax.moe.routers import any_number, scores


@dataclasses.dataclass(frozen=True)
class TopP(contract.Router):
  """The fewest experts whose probabilities together reach p.

  Dynamic routing (arXiv 2403.07652, section 3): experts are added, the most
  probable first, until the sum of their softmax probabilities is p or more. A
  token with one dominant probability takes one expert, others take more. Gates
  are those probabilities, not renormalised.

  The paper adds a loss on the entropy of each token's probabilities, the
  balance part `token_entropy`. Without it the probabilities flatten, so that
  tokens take more experts.

  Attributes:
    p: the sum that the probabilities must reach.
    k: number of experts per token for counting FLOPs, since the true number is
      known only when a token is routed.
  """

  replays: ClassVar[bool] = True

  p: float = fields.number(
    0.4, above=0, below=1, note='router top_k has a fixed number'
  )
  k: float = fields.number(2.0, above=0, at_most=10**6)

  def check(self, num_experts: int) -> None:
    scores.check_k(self.k, num_experts)

  def shrunk(self, num_experts: int) -> 'TopP':
    return dataclasses.replace(self, k=min(self.k, num_experts))

  @property
  def experts_per_token(self) -> float:
    return self.k

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    prob_TE = jax.nn.softmax(inputs.logits_TE, axis=-1)
    _, order_TE = jax.lax.top_k(inputs.biased(prob_TE), prob_TE.shape[1])
    sorted_TE = jnp.take_along_axis(prob_TE, order_TE, axis=1)
    # An expert is needed if the experts before it do not reach p.
    needed_TE = jnp.cumsum(sorted_TE, axis=1) - sorted_TE < self.p
    rank_TE = jnp.argsort(order_TE, axis=1)
    used_TE = jnp.take_along_axis(needed_TE, rank_TE, axis=1)
    return any_number.send(inputs, prob_TE, used_TE, prob_TE)
