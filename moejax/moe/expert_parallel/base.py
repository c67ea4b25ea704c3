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

  def room(self, num_devices: int) -> float:
    """Rows that a device's experts compute, over those assigned to them.

    At perfect balance over the P = `num_devices` devices. The others fill up
    an array of fixed shape; grouped matmuls skip them.
    """
    ...

  def lossless(self, num_devices: int) -> tuple['ExpertParallel', ...]:
    """The paths that a run may take, with room for every assignment.

    They are the same expert parallelism with room for all, and the fallback on
    overflow if it has one. All of them compute the same.
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
      routing: their assignments; ids from E on are not for these experts.
      num_experts: E, of all devices together.
    """
    ...
