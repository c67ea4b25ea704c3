"""The routed experts as one dense, masked sum: JAX differentiates it alone."""

import jax
import jax.numpy as jnp
import numpy as np


def gates(routing, num_tokens, num_experts, kept_A=None):
  """The weight of each expert for each token, [T, E], 0 where not sent."""
  weight_A = routing.weight_A
  if kept_A is not None:
    weight_A = jnp.where(kept_A, weight_A, 0.0)
  empty_TE = jnp.zeros((num_tokens, num_experts + 1))
  return empty_TE.at[routing.token_A, routing.expert_A].add(weight_A)[:, :-1]


def numpy_gates(routing):
  """`gates` of a known list, [T, E]; numpy has nothing to compile."""
  num_tokens, num_experts = routing.prob_TE.shape
  gate_TE = np.zeros((num_tokens, num_experts + 1), np.float32)
  places = np.asarray(routing.token_A), np.asarray(routing.expert_A)
  np.add.at(gate_TE, places, np.asarray(routing.weight_A))
  return gate_TE[:, :-1]


def experts(weights, x_TD, gate_TE):
  """Every token through every expert, weighted by its gates: out_TD."""
  h_TE2F = jnp.einsum(
    'td,edgf->tegf', x_TD, weights['w_in_ED2F'], precision='highest'
  )
  h_TEF = jax.nn.silu(h_TE2F[:, :, 0]) * h_TE2F[:, :, 1]
  return jnp.einsum(
    'tef,efd,te->td', h_TEF, weights['w_out_EFD'], gate_TE, precision='highest'
  )


def deepseek_moe(weights, x_TD, k, valid_T):
  """The whole layer with the gates as a masked softmax."""
  prob_TE = jax.nn.softmax(x_TD @ weights['router']['w_DE'], axis=-1)
  least_T1 = jnp.sort(prob_TE, axis=-1)[:, -k][:, None]
  gate_TE = jnp.where((prob_TE >= least_T1) & valid_T[:, None], prob_TE, 0.0)
  shared = jnp.ones((x_TD.shape[0], 1))
  return experts(weights['routed'], x_TD, gate_TE) + experts(
    weights['shared'], x_TD, shared
  )
