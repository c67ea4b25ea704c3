"""ReMoE's sparsity: an L1 loss whose weight adapts."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.core import errors, fields
from moejax.moe import contract
from moejax.moe.balance import base, counts

# (active_E, even) -> f_E, from the number of tokens in which each expert is
# active, and that number in balance.
FORMS = {
  'plain': lambda active_E, _: jnp.ones_like(active_E),
  'refined': lambda active_E, even: active_E / jnp.maximum(even, 1e-9),
}


@dataclasses.dataclass(frozen=True)
class AdaptiveL1(base.Balance):
  """ReMoE's loss: lambda * sum_e f_e (mean over tokens of R_te).

  Wang, Zhu and Chen 2024 (arXiv 2412.14711, sections 3.2 and 3.3): R is the
  ReLU of the logits, which the router reports as `relu_TE`; an expert is active
  where it is above 0. f_e = E / (k T) * (tokens in which e is active), so that
  the penalty is on busy experts. The gradient goes through R alone.

  lambda is the state. After every optimiser step it is multiplied by `growth`
  if the share of zeros in R, over all layers and the global batch, is below
  1 - k / E, and divided by `growth` otherwise. lambda is one number for the
  model, of which each layer keeps a copy. The first steps run nearly dense.

  Attributes:
    k: target for the average number of active experts of a token.
    start: lambda at the start.
    growth: the paper's alpha.
    form: 'refined' has f_e as above; 'plain' has f = 1, the L1 loss of section
      3.2.
  """

  needs_equal_layers: ClassVar[bool] = True

  k: float = fields.number(2.0, above=0, at_most=10**6)
  start: float = fields.number(1e-8, above=0, at_most=100)
  growth: float = fields.number(1.2, above=1, at_most=100)
  form: str = fields.named(FORMS, 'refined')

  def check(self, num_experts: int) -> None:
    if self.k > num_experts:
      raise errors.InputError(
        f'k={self.k} experts per token, but there are '
        f'{num_experts}; use a number up to that'
      )

  def shrunk(self, num_experts: int) -> 'AdaptiveL1':
    return dataclasses.replace(self, k=min(self.k, 2.0, float(num_experts)))

  def observe(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    relu_TE = counts.extra(routing, 'relu_TE')
    active_TE = (relu_TE > 0).astype(jnp.float32)
    tokens = counts.tokens(inputs)
    weight = inputs.needed_state.kept['l1']
    return {
      'active_E': counts.over_tokens(inputs, active_TE),
      'relu_E': counts.over_tokens(inputs, relu_TE),
      # A loss sees sums alone, so lambda travels as this sum over `tokens`.
      'weight': weight * tokens,
      'tokens': tokens,
    }

  def loss(self, sums: dict[str, jax.Array]) -> jax.Array:
    sums = sums | {
      name: jax.lax.stop_gradient(sums[name])
      for name in ('active_E', 'weight', 'tokens')
    }
    tokens = jnp.maximum(sums['tokens'], 1)
    even = self.k * tokens / len(sums['active_E'])
    f_E = FORMS[self.form](sums['active_E'], even)
    weight = sums['weight'] / tokens
    return weight * jnp.sum(f_E * sums['relu_E'] / tokens)

  def initial_state(self, num_experts: int) -> contract.RouterState:
    del num_experts
    l1 = jnp.full((), self.start, jnp.float32)
    return contract.RouterState(kept={'l1': l1})

  def update(
    self, state: contract.RouterState, sums: dict[str, jax.Array]
  ) -> contract.RouterState:
    num_experts = sums['active_E'].shape[-1]
    tokens_N = jnp.maximum(sums['tokens'], 1)
    active_N = jnp.sum(sums['active_E'], axis=-1) / (tokens_N * num_experts)
    sparsity = 1 - jnp.mean(active_N)
    target = 1 - self.k / num_experts
    factor = jnp.where(sparsity < target, self.growth, 1 / self.growth)
    # A batch of padding alone does not change lambda.
    seen = jnp.any(sums['tokens'] > 0)
    l1 = state.kept['l1'] * jnp.where(seen, factor, 1.0)
    return contract.RouterState(kept={'l1': l1})
