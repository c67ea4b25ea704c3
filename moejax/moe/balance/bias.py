"""Balance without a loss: a selection bias that follows the load.

A bias is updated after each optimiser step, from the load of the global batch.
So a token's choice depends on earlier batches and never on the other tokens of
its own batch (arXiv 2408.15664, section 5.2).
"""

import dataclasses

import jax
import jax.numpy as jnp

from moejax.core import fields
from moejax.moe import contract
from moejax.moe.balance import base, counts, zero_computation


def _sign(count_NE: jax.Array) -> jax.Array:
  return jnp.sign(jnp.mean(count_NE, axis=-1, keepdims=True) - count_NE)


def _proportional(count_NE: jax.Array) -> jax.Array:
  mean_N1 = jnp.mean(count_NE, axis=-1, keepdims=True)
  return (mean_N1 - count_NE) / jnp.where(mean_N1 > 0, mean_N1, 1.0)


# count_NE, with layers in front -> the step of the bias, in units of the rate.
RULES = {'proportional': _proportional, 'sign': _sign}


class SelectionBias(base.Balance):
  """Updates a selection bias from the load of the experts: the base class."""

  def observe(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    del inputs
    return {'count_E': counts.count(routing)}


@dataclasses.dataclass(frozen=True)
class LossFree(SelectionBias):
  """Loss-free balancing: b_i += rate * sign(mean load - load of expert i).

  Wang et al. 2024 (arXiv 2408.15664, algorithm 1), the selection bias of
  DeepSeek-V3 (arXiv 2412.19437, section 2.1.2) and its kin. It starts at 0 and
  its mean is not taken out, as in the paper. Padding has no load.

  Attributes:
    rate: u; 0.001 in the paper, V3 and GLM-4.5.
    rule: 'proportional' steps by rate * (mean - load) / mean, better for
      softmax scores by the paper's appendix C. The paper writes rate * (mean -
      load) in tokens; a step like that would grow with the batch, so ours is
      relative to the mean. The rule for factors instead of biases is left out.
    stop_after: optimiser steps after which the bias stays as it is; 0 for
      never. V3 stops after 14.3T tokens of 14.8T.
  """

  rate: float = fields.number(0.001, at_least=0, at_most=100)
  rule: str = fields.named(RULES, 'sign')
  stop_after: int = fields.number(0, at_least=0, note='0: never')

  def initial_state(self, num_experts: int) -> contract.RouterState:
    return contract.RouterState(
      jnp.zeros(num_experts, jnp.float32),
      {'steps': jnp.zeros((), jnp.float32)},
    )

  def update(
    self, state: contract.RouterState, sums: dict[str, jax.Array]
  ) -> contract.RouterState:
    steps_N = state.kept['steps']
    going_N1 = (steps_N < (self.stop_after or jnp.inf))[..., None]
    step_NE = self.rate * RULES[self.rule](sums['count_E'])
    return contract.RouterState(
      state.needed_bias + jnp.where(going_N1, step_NE, 0.0),
      {'steps': steps_N + 1},
    )


@dataclasses.dataclass(frozen=True)
class ShareBias(SelectionBias):
  """LongCat-Flash's bias: b_i += rate * (s / N - share of expert i).

  LongCat-Flash (arXiv 2509.01322, section 2.1), for the N experts with weights;
  identity experts have bias 0 and take the remaining assignments. An expert's
  share is its part of all K T assignments; s, the report's K_e / K, is the
  target share of all experts with weights together. So K_e of them compute a
  token, on average.

  The report was read second-hand. One reading has assignments over T in place
  of K T, but only with K T do the targets sum to what is assigned. The report
  lowers its rate while training; here it is constant, and the default our own.

  Attributes:
    rate: mu.
    num_zero: number of identity experts, which are the last choices.
    ffn_share: s; without identity experts it is 1.
  """

  rate: float = fields.number(0.001, at_least=0, at_most=100)
  num_zero: int = fields.number(0, at_least=0)
  ffn_share: float = fields.number(2 / 3, above=0, below=1)

  def check(self, num_experts: int) -> None:
    zero_computation.check_zero(self.num_zero, num_experts)

  def shrunk(self, num_experts: int) -> 'ShareBias':
    num_zero = min(self.num_zero, num_experts - 1)
    return dataclasses.replace(self, num_zero=num_zero)

  def initial_state(self, num_experts: int) -> contract.RouterState:
    return contract.RouterState(jnp.zeros(num_experts, jnp.float32))

  def update(
    self, state: contract.RouterState, sums: dict[str, jax.Array]
  ) -> contract.RouterState:
    count_NE = sums['count_E']
    with_weights = count_NE.shape[-1] - self.num_zero
    target = (self.ffn_share if self.num_zero else 1.0) / with_weights
    assignments_N1 = jnp.sum(count_NE, axis=-1, keepdims=True)
    share_NE = count_NE / jnp.maximum(assignments_N1, 1)
    moves_NE = (jnp.arange(count_NE.shape[-1]) < with_weights) & (
      assignments_N1 > 0
    )
    step_NE = self.rate * jnp.where(moves_NE, target - share_NE, 0.0)
    return contract.RouterState(state.needed_bias + step_NE)
