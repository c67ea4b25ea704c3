"""Transport plans that give every expert the same share of the tokens.

`sinkhorn` takes one sequence of S tokens (vmap it over sequences); padding has
no mass.
"""

import math

import jax
import jax.numpy as jnp

from moejax.core import varying
from moejax.moe import contract


def by_sequence(inputs: contract.RouterInput, x_T: jax.Array) -> jax.Array:
  """[T, ...] as [sequences, row_length, ...]."""
  return x_T.reshape(-1, inputs.row_length, *x_T.shape[1:])


def sinkhorn(
  score_SE: jax.Array,
  valid_S: jax.Array,
  tolerance: float,
  iterations: int,
) -> tuple[jax.Array, jax.Array]:
  """The balanced plan nearest to exp(score), by scaling rows and columns.

  Each of the n valid tokens has mass 1/n, each expert 1/E. The rows and the
  columns of exp(score) are scaled to these sums in turn, until the factors of
  the columns change by no more than `tolerance` on average. Factors are
  logarithms, so that large scores do not overflow.

  Args:
    score_SE: float32.
    valid_S: bool.
    tolerance: below 0, all iterations are made.
    iterations: the largest number of iterations; at least 1.

  Returns:
    log_plan_SE, the plan's logarithm (-inf for padding), and price_E, which the
    scaling subtracts from the scores of each expert.
  """
  num_tokens, num_experts = score_SE.shape
  score_SE = jnp.where(valid_S[:, None], score_SE, -jnp.inf)
  log_n = jnp.log(jnp.maximum(jnp.sum(valid_S), 1).astype(jnp.float32))

  def body(carry):
    _, old_E, _, i = carry
    row_S = jax.nn.logsumexp(score_SE - old_E, axis=1) + log_n
    row_S = jnp.where(valid_S, row_S, 0.0)
    price_E = jax.nn.logsumexp(score_SE - row_S[:, None], axis=0)
    # A sequence of padding alone has prices of 0.
    price_E = jnp.where(jnp.any(valid_S), price_E + math.log(num_experts), 0.0)
    factor_E, before_E = (
      jnp.exp(jnp.minimum(-x_E, 80.0)) for x_E in (price_E, old_E)
    )
    change = jnp.mean(jnp.abs(factor_E - before_E))
    return row_S, price_E, change, i + 1

  start = (
    jnp.zeros(num_tokens),
    jnp.zeros(num_experts),
    jnp.float32(jnp.inf),
    jnp.int32(0),
  )
  row_S, price_E, _, _ = jax.lax.while_loop(
    lambda carry: (carry[2] > tolerance) & (carry[3] < iterations),
    body,
    tuple(varying.like(x, score_SE, valid_S) for x in start),
  )
  return score_SE - row_S[:, None] - price_E, price_E
