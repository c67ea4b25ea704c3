"""A selection bias that is updated by AdamW: ZAYA1's balancing."""

import dataclasses

import jax
import jax.numpy as jnp

from moejax.core import fields
from moejax.moe import contract
from moejax.moe.balance import bias

EPS = 1e-8


@dataclasses.dataclass(frozen=True)
class AdamWBias(bias.SelectionBias):
  """b by AdamW, with (share of the load) - 1 / E for the gradient.

  ZAYA1's bias (arXiv 2605.05365, section II): Adam's moments smooth and scale
  the signal of loss-free balancing; the report likens it to a PID controller.
  With p_e the share of all assignments of the global batch that expert e has:

    g_e = p_e - 1 / E
    m_e = beta1 m_e + (1 - beta1) g_e        v_e = beta2 v_e + (1 - beta2) g_e^2
    b_e = b_e - rate (m_e / (1 - beta1^n) / (sqrt(v_e / (1 - beta2^n)) + 1e-8)
                      + weight_decay b_e)

  after n steps. The report gives no numbers: the defaults are Adam's usual
  ones, without decay, at the rate of loss-free balancing. Padding has no load,
  and a batch of padding alone changes neither bias nor moments.

  Attributes:
    rate: the learning rate of the bias.
    beta1: of the first moment.
    beta2: of the second moment.
    weight_decay: decoupled, pulls the bias to 0.
  """

  rate: float = fields.number(0.001, at_least=0, at_most=100)
  beta1: float = fields.number(0.9, at_least=0, below=1)
  beta2: float = fields.number(0.999, at_least=0, below=1)
  weight_decay: float = fields.number(0.0, at_least=0, at_most=1000)

  def initial_state(self, num_experts: int) -> contract.RouterState:
    zeros_E = jnp.zeros(num_experts, jnp.float32)
    return contract.RouterState(
      zeros_E,
      {
        'first_E': zeros_E,
        'second_E': zeros_E,
        'steps': jnp.zeros((), jnp.float32),
      },
    )

  def update(
    self, state: contract.RouterState, sums: dict[str, jax.Array]
  ) -> contract.RouterState:
    return jax.vmap(self._update)(state, sums['count_E'])

  def _update(
    self, state: contract.RouterState, count_E: jax.Array
  ) -> contract.RouterState:
    total = jnp.sum(count_E)
    slope_E = count_E / jnp.maximum(total, 1) - 1 / len(count_E)
    mix = lambda beta, old, new: beta * old + (1 - beta) * new
    steps = state.kept['steps'] + 1
    first_E = mix(self.beta1, state.kept['first_E'], slope_E)
    second_E = mix(self.beta2, state.kept['second_E'], jnp.square(slope_E))
    mean_E = first_E / (1 - self.beta1**steps)
    size_E = jnp.sqrt(second_E / (1 - self.beta2**steps)) + EPS
    bias_E = state.needed_bias
    step_E = mean_E / size_E + self.weight_decay * bias_E
    new = contract.RouterState(
      bias_E - self.rate * step_E,
      {'first_E': first_E, 'second_E': second_E, 'steps': steps},
    )
    return jax.tree.map(lambda x, old: jnp.where(total > 0, x, old), new, state)
