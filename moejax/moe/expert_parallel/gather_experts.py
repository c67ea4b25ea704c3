"""Every device gathers all experts' weights, so no row moves."""

import dataclasses

import jax

from moejax.moe import contract
from moejax.moe.compute.base import Compute, ExpertOutput
from moejax.moe.expert_parallel.base import ExpertParallel


@dataclasses.dataclass(frozen=True)
class GatherExperts:
  """Every device is given the weights of all experts, as FSDP does.

  Bytes that a device receives per layer and step, forward: (P - 1) / P of the
  layer's expert weights; backward the gradients go the other way. The number
  does not depend on the number of tokens, so this kind moves the fewest bytes
  when a device has many tokens.
  """

  @property
  def gathers_experts(self) -> bool:
    return True

  def row_overhead(self, num_devices: int) -> float:
    del num_devices
    return 1.0

  def lossless(self, num_devices: int) -> tuple[ExpertParallel, ...]:
    del num_devices
    return (self,)

  def __call__(
    self,
    compute: Compute,
    weights: dict[str, jax.Array],
    x_TD: jax.Array,
    routing: contract.Routing,
    num_experts: int,
  ) -> ExpertOutput:
    return compute(weights, x_TD, routing, num_experts)
