"""The contract of expert parallelism."""

from typing import Protocol

import jax

from moejax.moe import contract
from moejax.moe.compute.base import Compute, ExpertOutput

AXIS = 'expert'


class ExpertParallel(Protocol):
  """Brings rows and experts together over the mesh's `expert` axis.

  Called inside `shard_map`, where each device has its own tokens and the
  weights of its own experts: numbers [p * E / P, (p + 1) * E / P) on the p-th
  of P devices.
  """

  @property
  def gathers_experts(self) -> bool:
    """Whether every device is given the weights of all experts instead."""
    ...

  def row_overhead(self, num_devices: int) -> float:
    """Rows in the arrays of a device's experts, over rows assigned to them.

    The ratio is at perfect balance over the P = `num_devices` devices, and at
    least 1. Rows beyond the assigned ones only fill up an array of fixed shape;
    grouped matmuls skip them.
    """
    ...

  def lossless(self, num_devices: int) -> tuple['ExpertParallel', ...]:
    """The kinds of expert parallelism that a run may take, made lossless.

    The first is this one with room for every assignment; the second, if there
    is one, is its fallback on overflow. All compute the same function.
    """
    ...

  def __call__(
    self,
    compute: Compute,
    weights: dict[str, jax.Array],
    x_TD: jax.Array,
    routing: contract.Routing,
    num_experts: int,
  ) -> ExpertOutput:
    """The output of all E = `num_experts` experts for this device's tokens.

    Args:
      compute: computes experts on one device.
      weights: of this device's experts.
      x_TD: this device's tokens.
      routing: their assignments; expert ids from E on are sent nowhere.
      num_experts: E, the experts of all devices together.
    """
    ...
