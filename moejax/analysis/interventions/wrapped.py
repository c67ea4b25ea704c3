"""Wrapped: a router that routes otherwise in some layers, with equal weights.

A wrapped router reads the scores of the router inside and has its parameters,
so a trained model runs with it as it is. Each intervention is one subclass.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from moejax.analysis.interventions.base import Layers
from moejax.model.config import ModelConfig
from moejax.moe import contract
from moejax.moe.expert_needs import ExpertNeeds
from moejax.moe.scorers.base import Scorer

# Added to scores, it outranks all scores and none of it is lost: finite, since
# routers add up and subtract scores.
LARGE = 1e30


@dataclasses.dataclass(frozen=True)
class Wrapped(contract.Router):
  """Routes by `changed` in some layers, by the router inside in the others.

  Attributes:
    router: the router inside.
    layers: the changed layers, by their place among those with experts; None
      for all.
  """

  router: contract.Router
  layers: Layers = None

  def changed(self, inputs: contract.RouterInput) -> contract.Routing:
    """The assignments in the changed layers."""
    raise NotImplementedError

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    changed = self.changed(inputs)
    if self.layers is None:
      return changed
    is_changed = jnp.isin(jnp.asarray(inputs.layer), jnp.array(self.layers))
    return either(is_changed, changed, self.router(inputs))

  @property
  def experts_per_token(self) -> float:
    return self.router.experts_per_token

  def check(self, num_experts: int) -> None:
    self.router.check(num_experts)

  def shrunk(self, num_experts: int) -> 'Wrapped':
    return dataclasses.replace(self, router=self.router.shrunk(num_experts))

  def num_logits(self, num_experts: int) -> int:
    return self.router.num_logits(num_experts)

  def expert_of_logit(self, num_experts: int) -> np.ndarray:
    return self.router.expert_of_logit(num_experts)

  @property
  def expert_needs(self) -> ExpertNeeds:
    return self.router.expert_needs

  @property
  def fits_uneven_layers(self) -> bool:
    return self.router.fits_uneven_layers

  @property
  def chooses_by(self) -> str:
    return self.router.chooses_by

  def with_groups(self, num_groups: int) -> 'Wrapped':
    return dataclasses.replace(self, router=self.router.with_groups(num_groups))

  def extra_scorers(self, num_experts: int) -> dict[str, tuple[Scorer, int]]:
    return self.router.extra_scorers(num_experts)

  def scorer_input(
    self, x_TD: jax.Array, index_T: jax.Array, key: jax.Array | None
  ) -> jax.Array:
    return self.router.scorer_input(x_TD, index_T, key)

  @property
  def weights_are_independent(self) -> bool:
    return self.router.weights_are_independent

  @property
  def causal(self) -> bool:
    return self.router.causal

  @property
  def reads_rows(self) -> bool:
    return self.router.reads_rows

  @property
  def counts_steps(self) -> bool:
    return self.router.counts_steps

  @property
  def frozen_scorers(self) -> dict[str, int]:
    return self.router.frozen_scorers


def in_model(config: ModelConfig, router: contract.Router) -> ModelConfig:
  """The config of a model with another router."""
  return dataclasses.replace(
    config, moe=dataclasses.replace(config.moe, router=router)
  )


def either(
  is_first: jax.Array, first: contract.Routing, second: contract.Routing
) -> contract.Routing:
  """The first routing or the second, of the same tokens.

  The shorter list gets assignments to nowhere. `extra`, for balance losses, is
  that of the second.

  Args:
    is_first: bool, a scalar.
    first: a list of token choice, with `per_token`.
    second: another one.
  """
  num_tokens, nowhere = first.prob_TE.shape
  k = max(_per_token(first), _per_token(second))

  def padded(x_A: jax.Array, value: float) -> jax.Array:
    return jnp.pad(x_A, (0, k * num_tokens - len(x_A)), constant_values=value)

  pick = lambda x, y: jnp.where(is_first, x, y)
  residual_T = None
  if first.residual_T is not None and second.residual_T is not None:
    residual_T = pick(first.residual_T, second.residual_T)
  return dataclasses.replace(
    first,
    token_A=jnp.tile(jnp.arange(num_tokens, dtype=jnp.int32), k),
    expert_A=pick(
      padded(first.expert_A, nowhere), padded(second.expert_A, nowhere)
    ),
    weight_A=pick(padded(first.weight_A, 0), padded(second.weight_A, 0)),
    prob_TE=pick(first.prob_TE, second.prob_TE),
    extra=second.extra,
    per_token=k,
    residual_T=residual_T,
  )


def with_bias(
  inputs: contract.RouterInput, bias_TE: jax.Array
) -> contract.RouterInput:
  """The input with a bias of the selection that differs by token.

  So a router chooses by other scores, and weighs by the scores as they are.
  """
  if inputs.selection_bias_E is not None:
    bias_TE = bias_TE + inputs.selection_bias_E
  return dataclasses.replace(inputs, selection_bias_E=bias_TE)


def without(
  router: contract.Router, inputs: contract.RouterInput, out_TE: jax.Array
) -> contract.Routing:
  """The routing among the experts that are left.

  The experts are chosen by the router's own rule. Their weights are what the
  router gives to this choice: a softmax is still over all experts. If a rule of
  groups leaves a token with fewer than K experts, the others go nowhere.

  Args:
    router: one of `base.RANKED`.
    inputs: the router's.
    out_TE: bool, the experts that each token cannot use.
  """
  routing = router(with_bias(inputs, jnp.where(out_TE, -LARGE, 0.0)))
  nowhere = out_TE.shape[1]
  is_out_A = out_TE[routing.token_A, jnp.minimum(routing.expert_A, nowhere - 1)]
  return dataclasses.replace(
    routing,
    expert_A=jnp.where(is_out_A, nowhere, routing.expert_A),
    weight_A=jnp.where(is_out_A, 0.0, routing.weight_A),
  )


def by_token(routing: contract.Routing) -> tuple[jax.Array, jax.Array]:
  """expert_TK and weight_TK of a list of token choice, best expert first."""
  k = _per_token(routing)
  return (
    routing.expert_A.reshape(k, -1).T,
    routing.weight_A.reshape(k, -1).T,
  )


def ranks(score_TE: jax.Array) -> jax.Array:
  """int32 rank of each expert for its token, 0 the best; first among equals."""
  _, order_TE = jax.lax.top_k(score_TE, score_TE.shape[1])
  return jnp.argsort(order_TE, axis=1)


def _per_token(routing: contract.Routing) -> int:
  if routing.per_token is None:
    raise ValueError('this routing is no list of token choice')
  return routing.per_token
