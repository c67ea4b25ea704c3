"""The coupling loss: experts respond most to their own row of the router."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.core import errors, fields
from moejax.moe import contract
from moejax.moe.balance import base, counts


@dataclasses.dataclass(frozen=True)
class Coupling(base.Balance):
  """Expert-router coupling: an expert responds most to its own row.

  ERC (arXiv 2512.23447, equation 3): the router's row R_i stands for the tokens
  that are sent to expert i. With M_ij the length of the product of the noisy
  row i and the gate matrix of expert j,

    coefficient / E^2 * sum over i and j != i of
      max(M_ij - alpha M_ii, 0) + max(M_ji - alpha M_ii, 0)

  so that expert i responds most strongly to row i, of all experts and of all
  rows. The loss depends on weights alone, not on tokens, and balances nothing.
  M is `inputs.responses_EE`; see `balance.responses`.

  The loss needs the scorer `linear`, gated experts at the width of the model,
  and a router with one logit per expert.

  Attributes:
    coefficient: of the loss; the paper's is not confirmed.
    alpha: largest ratio of other responses to an expert's own that costs
      nothing; the paper's best are 1 with 64 experts and 0.5 with 256.
  """

  needs_equal_layers: ClassVar[bool] = True

  coefficient: float = base.loss_weight(1.0)
  alpha: float = fields.number(1.0, at_least=0, at_most=1000)

  @property
  def reads_responses(self) -> bool:
    return True

  def observe(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    del routing
    m_EE = inputs.responses_EE
    if m_EE is None:
      raise errors.InputError(
        "needs the experts' answers to the rows of the router, which only a "
        'layer with both has; use such a layer'
      )
    own_E1 = self.alpha * jnp.diagonal(m_EE)[:, None]
    excess_EE = jax.nn.relu(m_EE - own_E1) + jax.nn.relu(m_EE.T - own_E1)
    others_EE = 1 - jnp.eye(len(m_EE))
    tokens = counts.tokens(inputs)
    # All shards have the same value, which travels as this sum over `tokens`.
    return {'value': jnp.mean(excess_EE * others_EE) * tokens, 'tokens': tokens}

  def loss(self, sums: dict[str, jax.Array]) -> jax.Array:
    tokens = jnp.maximum(sums['tokens'], 1)
    return self.coefficient * sums['value'] / tokens
