"""Shared experts removed, and routed experts in their place (DeepSeekMoE)."""

import dataclasses

import jax
import jax.numpy as jnp

from moejax.analysis.interventions import active, base
from moejax.core import errors
from moejax.model.config import ModelConfig
from moejax.moe.experts.shared import SharedExperts


@dataclasses.dataclass(frozen=True)
class RemovedShared(SharedExperts):
  """Shared experts whose output is left out.

  Attributes:
    layers: places among the layers with experts; None for all.
  """

  layers: base.Layers = None

  def in_layer(self, out_BLD: jax.Array, layer: jax.Array | int) -> jax.Array:
    if self.layers is None:
      return jnp.zeros_like(out_BLD)
    removed = jnp.isin(jnp.asarray(layer), jnp.array(self.layers))
    return jnp.where(removed, jnp.zeros_like(out_BLD), out_BLD)


class NoShared(base.Intervention):
  """Leaves the shared experts out, and adds n routed experts to each token.

  DeepSeekMoE (arXiv 2401.06066, section 4.5) does it with one shared expert and
  n = 1, so that as many experts as before compute a token: the Pile loss rises
  from 1.808 to 2.414.
  """

  summary = 'shared experts left out, and n routed experts more for each token'
  value = 'number of routed experts in place of the shared ones, from 0'
  usual_values = ('0', '1')

  def __call__(
    self, config: ModelConfig, value: str, layers: base.Layers = None
  ) -> ModelConfig:
    self.check_router(config)
    moe = config.moe
    more = base.whole(
      value, 'the number of routed experts to add', 0, moe.num_choices
    )
    if not moe.num_shared:
      raise errors.InputError(
        'the model has no shared experts (model.moe.num_shared=0)'
      )
    if more:
      active.Active().check_router(config)
      k = base.experts_per_token(moe.router) + more
      config = active.with_k(config, k, layers)
    own = {
      f.name: getattr(moe.shared, f.name)
      for f in dataclasses.fields(moe.shared)
    }
    shared = RemovedShared(**own, layers=layers)
    return dataclasses.replace(
      config, moe=dataclasses.replace(config.moe, shared=shared)
    )
