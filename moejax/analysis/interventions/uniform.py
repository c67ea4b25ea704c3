"""Experts drawn at random, all equally likely."""

import dataclasses

import jax.numpy as jnp

from moejax.analysis.interventions import base, wrapped
from moejax.model.config import ModelConfig
from moejax.moe import contract
from moejax.moe.routers import hashing, sparse_mixer

SEEDS = 2**31 - 1
# Times uniform numbers, and no score changes their order.
SCALE = 1e20


@dataclasses.dataclass(frozen=True)
class Uniform(wrapped.Wrapped):
  """Each token ranks the experts by a hash, not by their scores."""

  seed: int = 0

  def changed(self, inputs: contract.RouterInput) -> contract.Routing:
    num_tokens, num_experts = inputs.logits_TE.shape
    token_T = inputs.token_T
    if token_T is None:
      token_T = jnp.zeros(num_tokens, jnp.int32)
    hash_TE = hashing.mix(
      self.seed,
      jnp.asarray(inputs.layer),
      inputs.index_T[:, None],
      token_T[:, None],
      jnp.arange(num_experts),
    )
    # 24 bits, which float32 holds exactly.
    share_TE = (hash_TE >> 8).astype(jnp.float32) * 2.0**-24
    return self.router(wrapped.with_bias(inputs, SCALE * share_TE))


class UniformChoice(base.Intervention):
  """Chooses experts uniformly at random; the value is a seed.

  The choice is a hash of (seed, layer, the token's index in the batch, its id,
  expert), so it depends neither on the mesh nor on micro-batches. A router with
  groups draws groups, and experts in them. Weights are what the router gives to
  the choice, such as the probability of a drawn expert.
  """

  summary = 'experts drawn uniformly at random'
  value = 'seed, from 0'
  wraps = base.RANKED
  but = (sparse_mixer.SparseMixer,)
  usual_values = ('0', '1', '2')

  def __call__(
    self, config: ModelConfig, value: str, layers: base.Layers = None
  ) -> ModelConfig:
    self.check_router(config)
    seed = base.whole(value, 'the seed', 0, SEEDS)
    return wrapped.in_model(config, Uniform(config.moe.router, layers, seed))
