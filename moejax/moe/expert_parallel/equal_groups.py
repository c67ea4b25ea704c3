"""An all-to-all for experts that all have equally many rows."""

import jax
import jax.numpy as jnp

from moejax.moe import contract
from moejax.moe.compute.base import ExpertOutput, Stages
from moejax.moe.expert_parallel.base import AXIS
from moejax.moe.expert_parallel.rows import swap


def exchange(
  stages: Stages,
  weights: dict[str, jax.Array],
  x_TD: jax.Array,
  routing: contract.Routing,
  num_experts: int,
) -> ExpertOutput:
  """The output of all experts for this device's tokens.

  The rows are grouped by expert before they move, so no expert numbers move
  with them, no buffer can overflow, and the receiver multiplies one batch.

  Args:
    stages: dispatch, experts and combine, from `Compute.equal_stages`.
    weights: of this device's experts.
    x_TD: this device's tokens.
    routing: their assignments.
    num_experts: E, the experts of all devices together.
  """
  num_devices = jax.lax.axis_size(AXIS)
  own, width = num_experts // num_devices, x_TD.shape[1]
  x_RD, size_E, note = stages.dispatch(x_TD, routing, num_experts)
  rows = x_RD.shape[0] // num_experts
  x_PECD = swap(x_RD.reshape(num_devices, own, rows, width))
  # The rows of this device's experts, from all devices.
  x_ND = x_PECD.swapaxes(0, 1).reshape(-1, width)
  size_own = size_E[:own] * num_devices
  y_ND = stages.apply(weights, x_ND, size_own)
  y_EPCD = y_ND.reshape(own, num_devices, rows, -1)
  y_RD = swap(y_EPCD.swapaxes(0, 1)).reshape(x_RD.shape[0], -1)
  out_TD = stages.combine(y_RD, routing, note, x_TD.shape[0])
  return ExpertOutput(
    out_TD, note.row_A < x_RD.shape[0], jnp.zeros((), jnp.float32)
  )
