"""Experts that answer to their own row of the router: the coupling loss."""

import dataclasses

import jax
import jax.numpy as jnp

from moejax.core import config, errors
from moejax.moe import contract
from moejax.moe.balance import counts

NAME = 'coupling'
LEAST_NORM = 1e-6


@dataclasses.dataclass(frozen=True)
class Coupling(contract.Balance):
  """Expert-router coupling: an expert answers to its own row more than others.

  ERC (arXiv 2512.23447, equation 3): the router's row R_i stands for the tokens
  that are sent to expert i. With M_ij the length of what the gate matrix of
  expert j makes of the noisy row i,

    coefficient / E^2 * sum over i and j != i of
      max(M_ij - alpha M_ii, 0) + max(M_ji - alpha M_ii, 0)

  so that row i finds its strongest answer in expert i, and expert i its
  strongest row in i. The loss looks at no token: it is the same whatever the
  batch, and balances nothing. `responses` gives M; the layer passes it on as
  `given.responses_EE`.

  It needs the scorer `linear`, gated experts at the width of the model, and a
  score for each expert and nothing else.

  Attributes:
    coefficient: of the loss; which one the paper has is not confirmed.
    alpha: how much weaker other answers must be; the paper's best are 1 with 64
      experts and 0.5 with 256.
  """

  coefficient: float = contract.loss_weight(1.0)
  alpha: float = config.number(1.0, at_least=0, at_most=1000)

  @property
  def reads_responses(self) -> bool:
    return True

  def observe(
    self, given: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    del routing
    m_EE = given.responses_EE
    if m_EE is None:
      raise errors.InputError(
        f"balance.{NAME} needs the experts' answers to the rows of the router, "
        f'which only a layer with both has; set balance.{NAME}=off'
      )
    own_E1 = self.alpha * jnp.diagonal(m_EE)[:, None]
    excess_EE = jax.nn.relu(m_EE - own_E1) + jax.nn.relu(m_EE.T - own_E1)
    others_EE = 1 - jnp.eye(len(m_EE))
    tokens = counts.tokens(given)
    # The same on all shards; this over `tokens` is the value.
    return {'value': jnp.mean(excess_EE * others_EE) * tokens, 'tokens': tokens}

  def loss(self, sums: dict[str, jax.Array]) -> jax.Array:
    tokens = jnp.maximum(sums['tokens'], 1)
    return self.coefficient * sums['value'] / tokens


def responses(
  rows_ED: jax.Array, w_gate_EDF: jax.Array, key: jax.Array | None
) -> jax.Array:
  """M: the length of R_i W_j, rows of the router in front.

  In training each number of row i is multiplied by one from 1 - e_i to 1 + e_i,
  where e_i is half the distance to the nearest other row, over the length of
  row i: a noisy row stays nearer to its own than to any other. The gradient
  goes through rows and experts, not through e.

  Args:
    rows_ED: the router's centroids.
    w_gate_EDF: the gate matrices of the experts.
    key: of the noise; None means evaluation.
  """
  rows_ED = rows_ED.astype(jnp.float32)
  if key is not None:
    fixed_ED = jax.lax.stop_gradient(rows_ED)
    apart_EE = jnp.linalg.norm(fixed_ED[:, None] - fixed_ED, axis=-1)
    apart_EE = jnp.where(jnp.eye(len(rows_ED)) > 0, jnp.inf, apart_EE)
    length_E = jnp.maximum(jnp.linalg.norm(fixed_ED, axis=-1), LEAST_NORM)
    reach_E1 = (jnp.min(apart_EE, axis=-1) / (2 * length_E))[:, None]
    reach_E1 = jnp.where(jnp.isfinite(reach_E1), reach_E1, 0.0)
    noise_ED = jax.random.uniform(key, rows_ED.shape, minval=-1.0)
    rows_ED = rows_ED * (1 + reach_E1 * noise_ED)
  answer_EEF = jnp.einsum(
    'iD,jDF->ijF', rows_ED, w_gate_EDF.astype(jnp.float32)
  )
  square_EE = jnp.sum(jnp.square(answer_EEF), axis=-1)
  # The gradient of a length of zero is zero.
  large_EE = square_EE > LEAST_NORM**2
  return jnp.where(large_EE, jnp.sqrt(jnp.where(large_EE, square_EE, 1)), 0.0)
