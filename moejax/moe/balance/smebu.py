"""A selection bias with momentum whose steps are clamped softly: SMEBU."""

import dataclasses

import jax
import jax.numpy as jnp

from moejax.core import fields
from moejax.moe import contract
from moejax.moe.balance import bias


@dataclasses.dataclass(frozen=True)
class Smebu(bias.SelectionBias):
  """Soft-clamped momentum expert bias updates, of Trinity Large.

  Trinity's report (arXiv 2602.17004) takes the sign rule of loss-free
  balancing (`LossFree`) and makes the step small where the load is nearly even,
  so that a bias can come to rest. With n_e the load of expert e and n its mean:

    v_e = (n - n_e) / n
    d_e = rate * tanh(kappa v_e), minus the mean of it over the experts
    m_e = momentum m_e + (1 - momentum) d_e
    b_e = b_e + m_e

  Biases and m start at 0; their means stay 0. Padding has no load, and a batch
  of padding alone changes neither.

  Attributes:
    rate: lambda; the report's.
    kappa: how fast the tanh saturates; the report's. Large, it is the sign.
    momentum: beta; the report's.
  """

  rate: float = fields.number(5e-4, at_least=0, at_most=100)
  kappa: float = fields.number(2.0, above=0, at_most=1000)
  momentum: float = fields.number(0.5, at_least=0, below=1)

  def initial_state(self, num_experts: int) -> contract.RouterState:
    zeros_E = jnp.zeros(num_experts, jnp.float32)
    return contract.RouterState(zeros_E, {'momentum_E': zeros_E})

  def update(
    self, state: contract.RouterState, sums: dict[str, jax.Array]
  ) -> contract.RouterState:
    count_NE = sums['count_E']
    mean_N1 = jnp.mean(count_NE, axis=-1, keepdims=True)
    seen_N1 = mean_N1 > 0
    violation_NE = (mean_N1 - count_NE) / jnp.where(seen_N1, mean_N1, 1.0)
    step_NE = self.rate * jnp.tanh(self.kappa * violation_NE)
    step_NE = step_NE - jnp.mean(step_NE, axis=-1, keepdims=True)
    old_NE = state.kept['momentum_E']
    new_NE = self.momentum * old_NE + (1 - self.momentum) * step_NE
    bias_NE = state.needed_bias
    return contract.RouterState(
      jnp.where(seen_N1, bias_NE + new_NE, bias_NE),
      {'momentum_E': jnp.where(seen_N1, new_NE, old_NE)},
    )
