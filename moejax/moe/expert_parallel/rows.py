"""Rows go to other devices, and through the experts of a device."""

import jax
import jax.numpy as jnp

from moejax.core import varying
from moejax.moe import contract
from moejax.moe.compute.base import Compute
from moejax.moe.expert_parallel.base import AXIS


def swap(x_PN: jax.Array) -> jax.Array:
  """Sends x_PN[p] to device p; row p of the result is from device p."""
  return jax.lax.all_to_all(x_PN, AXIS, split_axis=0, concat_axis=0)


def rows_through(
  compute: Compute,
  weights: dict[str, jax.Array],
  x_ND: jax.Array,
  expert_N: jax.Array,
  own: int,
) -> jax.Array:
  """y_ND: each row through its local expert; zeros where the id is `own`.

  Args:
    compute: computes experts on one device.
    weights: of this device's experts.
    x_ND: rows; N may stand for several dimensions.
    expert_N: int32, the local expert of each row, in [0, own].
    own: number of this device's experts.
  """
  x_TD, expert_A = x_ND.reshape(-1, x_ND.shape[-1]), expert_N.reshape(-1)
  weight_A = varying.like(jnp.ones(expert_A.shape, jnp.float32), x_TD)
  routing = contract.Routing(
    token_A=jnp.arange(expert_A.shape[0], dtype=jnp.int32),
    expert_A=expert_A,
    weight_A=weight_A,
    prob_TE=jnp.zeros((expert_A.shape[0], own)),
    per_token=1,
  )
  y_TD = compute(weights, x_TD, routing, own).out_TD
  return y_TD.reshape(*x_ND.shape[:-1], -1)
