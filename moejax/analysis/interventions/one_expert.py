"""One expert in the choice of every token, or in that of none."""

import dataclasses

import jax.numpy as jnp

from moejax.analysis.interventions import base, wrapped
from moejax.core import errors
from moejax.model.config import ModelConfig
from moejax.moe import contract
from moejax.moe.routers import sparse_mixer


@dataclasses.dataclass(frozen=True)
class Forced(wrapped.Wrapped):
  """Every token has the expert `expert` as its first choice."""

  expert: int = 0

  def changed(self, inputs: contract.RouterInput) -> contract.Routing:
    num_experts = inputs.logits_TE.shape[1]
    is_it_E = jnp.arange(num_experts) == self.expert
    bias_TE = jnp.where(
      is_it_E, wrapped.LARGE, jnp.zeros_like(inputs.logits_TE)
    )
    return self.router(wrapped.with_bias(inputs, bias_TE))


@dataclasses.dataclass(frozen=True)
class Forbidden(wrapped.Wrapped):
  """No token has the expert `expert`."""

  expert: int = 0

  def changed(self, inputs: contract.RouterInput) -> contract.Routing:
    is_it_E = jnp.arange(inputs.logits_TE.shape[1]) == self.expert
    out_TE = jnp.broadcast_to(is_it_E, inputs.logits_TE.shape)
    return wrapped.without(self.router, inputs, out_TE)


def _expert(
  intervention: base.Intervention, config: ModelConfig, value: str
) -> int:
  """The expert that `value` names, of a router that can be wrapped."""
  intervention.check_router(config)
  last = config.moe.num_choices - 1
  return base.whole(value, 'the number of the expert', 0, last)


class Force(base.Intervention):
  """Makes one expert the first choice of every token.

  The other K - 1 are chosen as before. Weights are what the router gives to
  the choice.

  Example, K=2, probabilities [.5 .3 .2], expert 2: experts 2 and 0 with weights
  .2 and .5.
  """

  summary = 'one expert forced on every token, as its first choice'
  value = 'number of the expert, from 0'
  wraps = base.RANKED
  # Its gate is a softmax over the logits near the largest: of one expert alone.
  but = (sparse_mixer.SparseMixer,)

  def __call__(
    self, config: ModelConfig, value: str, layers: base.Layers = None
  ) -> ModelConfig:
    expert = _expert(self, config, value)
    router = Forced(config.moe.router, layers, expert)
    return wrapped.in_model(config, router)


class Forbid(base.Intervention):
  """Takes one expert out of the choice of every token.

  The next expert is chosen in its place. Weights are what the router gives to
  the choice.

  Example, K=2, probabilities [.5 .3 .2], expert 0: experts 1 and 2 with weights
  .3 and .2.
  """

  summary = 'one expert forbidden to every token'
  value = 'number of the expert, from 0'
  wraps = base.RANKED

  def __call__(
    self, config: ModelConfig, value: str, layers: base.Layers = None
  ) -> ModelConfig:
    expert, total = _expert(self, config, value), config.moe.num_choices
    k = base.experts_per_token(config.moe.router)
    if k + 1 > total:
      raise errors.InputError(
        f'forbids one of {total} experts, but a token needs {k}'
      )
    router = Forbidden(config.moe.router, layers, expert)
    return wrapped.in_model(config, router)
