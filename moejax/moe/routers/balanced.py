"""Routers that choose without scores, for benchmarks and ablations."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.moe import contract, replay
from moejax.moe.routers import fixed_k, hashing, noise


@dataclasses.dataclass(frozen=True)
class ForcedBalanced(fixed_k.FixedK):
  """Token i goes to experts i * k, ..., i * k + k - 1, modulo E.

  The load is perfectly balanced whatever the scores, where E divides the
  batch's tokens times k and there is no padding. Benchmarks use it. `i` is the
  token's place in the global batch.

  Example, k=2, E=5: token 0 -> 0, 1; token 1 -> 2, 3; token 2 -> 4, 0.

  Attributes:
    equal_weights: every weight is 1/k; else softmax over all experts, so that
      gradients flow as in `top_k`.
  """

  experts_are_alike: ClassVar[bool] = False
  follows_selection_bias: ClassVar[bool] = False
  replays: ClassVar[bool] = True
  keeps_experts: ClassVar[str] = (
    'it deals experts out by number, without scores, so no expert matters more '
    'than another'
  )

  equal_weights: bool = False

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    prob_TE = jax.nn.softmax(inputs.logits_TE, axis=-1)
    expert_TK, _ = replay.choice(
      inputs.replayed, self._choose(inputs, prob_TE.shape[1])
    )
    if self.equal_weights:
      weight_TK = jnp.full(expert_TK.shape, 1 / self.k)
    else:
      weight_TK = jnp.take_along_axis(prob_TE, expert_TK, axis=1)
    return contract.token_choice(inputs, expert_TK, weight_TK, prob_TE)

  def _choose(self, inputs, num_experts):
    # Modulo E before the product: an index may be large.
    first_T1 = (inputs.index_T % num_experts * self.k)[:, None]
    return (first_T1 + jnp.arange(self.k)) % num_experts


@dataclasses.dataclass(frozen=True)
class Random(ForcedBalanced):
  """k different experts, all equally likely.

  Training draws them anew in every step. In evaluation they are a hash of the
  layer and the token's place in the batch, so that results can be repeated.
  """

  def _choose(self, inputs, num_experts):
    if inputs.training:
      return jax.lax.top_k(noise.uniform(inputs, num_experts), self.k)[1]
    return hashing.distinct(num_experts, self.k, inputs.layer, inputs.index_T)
