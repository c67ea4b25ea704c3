"""A routing in which each token has any number of experts."""

import jax
import jax.numpy as jnp

from moejax.moe import contract
from moejax.moe.routers import scores


def send(
  inputs: contract.RouterInput,
  weight_TE: jax.Array,
  used_TE: jax.Array,
  prob_TE: jax.Array,
  extra: dict[str, jax.Array] | None = None,
) -> contract.Routing:
  """Sends each token to all experts that it uses, largest weight first.

  The list has T * E assignments, since shapes cannot depend on data: an expert
  that a token does not use keeps its place in the list and is sent nowhere. So
  the memory, rows of the dispatcher included, is that of a dense layer however
  few experts are used.

  A replay has as many assignments for each token as were recorded.

  Example, T=2, E=3:
    weight_TE  [[0.3, 0.9, 0.0], [0.0, 0.0, 0.2]]
    expert_A   [1, 2, 0, 3, 3, 3]    token_A [0, 1, 0, 1, 0, 1]
    weight_A   [0.9, 0.2, 0.3, 0.0, 0.0, 0.0]
  """
  if inputs.replayed is not None:
    expert_TK = inputs.replayed.ids
    weight_TK = scores.take(weight_TE, expert_TK)
    return contract.token_choice(inputs, expert_TK, weight_TK, prob_TE, extra)
  num_experts = prob_TE.shape[1]
  rank_TE = jnp.where(used_TE, jax.lax.stop_gradient(weight_TE), -jnp.inf)
  _, order_TE = jax.lax.top_k(rank_TE, num_experts)
  used_TK = jnp.take_along_axis(used_TE, order_TE, axis=1)
  weight_TK = jnp.take_along_axis(weight_TE, order_TE, axis=1)
  return contract.token_choice(
    inputs,
    jnp.where(used_TK, order_TE, num_experts),
    jnp.where(used_TK, weight_TK, 0.0),
    prob_TE,
    extra,
  )


def shares(weight_TE: jax.Array) -> jax.Array:
  """Each row of weights over its sum, as probabilities; 1 / E for a zero row.

  The weights must not be negative. The gradient is finite everywhere.
  """
  total_T1 = weight_TE.sum(axis=1, keepdims=True)
  some_T1 = total_T1 > scores.LEAST_SUM
  share_TE = weight_TE / jnp.where(some_T1, total_T1, 1.0)
  return jnp.where(some_T1, share_TE, 1 / weight_TE.shape[1])
