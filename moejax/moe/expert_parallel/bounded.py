"""Rows move through buffers of bounded room.

OVERFLOWS: what happens to assignments that do not fit into a buffer.

drop      the assignments are dropped and counted
dropless  if a buffer of any device is too small, all devices compute this layer
          by `all_gather` instead; the price is time
repeat    the assignments are dropped and counted; a training step whose count
          is not 0 recomputes the whole batch with `all_gather`. So a step
          without overflow has no branch in its layers. Evaluation drops
"""

import abc
import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from moejax.core import fields
from moejax.moe import contract
from moejax.moe.compute.base import Compute, ExpertOutput
from moejax.moe.expert_parallel import all_gather, equal_groups
from moejax.moe.expert_parallel.base import ExpertParallel
from moejax.parallel import mesh as meshes

OVERFLOWS = ('drop', 'dropless', 'repeat')


@dataclasses.dataclass(frozen=True)
class Bounded(fields.Checked, abc.ABC):
  """Base of the kinds whose buffers may be too small for the assignments.

  Where all experts have equally many rows no buffer can overflow, and rows
  travel as in `equal_groups`.

  Attributes:
    factor: rows of a buffer, over those that perfect balance needs.
    overflow: what happens to assignments that do not fit into it, one of
      OVERFLOWS.
  """

  factor: float
  overflow: str = fields.named(OVERFLOWS, 'dropless')

  @abc.abstractmethod
  def exchange(
    self,
    compute: Compute,
    weights: dict[str, jax.Array],
    x_TD: jax.Array,
    routing: contract.Routing,
    num_experts: int,
  ) -> tuple[Callable[[], jax.Array], jax.Array]:
    """How the rows of this device's tokens move.

    Arguments are those of `ExpertParallel.__call__`.

    Returns:
      A function that computes out_TD from the assignments that fit into
      buffers; and fits_A, bool, which assignments fit. fits_A is of no meaning
      where the assignment is sent nowhere.
    """

  @abc.abstractmethod
  def row_overhead(self, num_devices: int) -> float:
    """As `ExpertParallel.row_overhead`."""

  @property
  def gathers_experts(self) -> bool:
    return False

  def lossless(self, num_devices: int) -> tuple[ExpertParallel, ...]:
    roomy = dataclasses.replace(self, factor=float(num_devices))
    if self.overflow == 'drop':
      return (roomy,)
    return roomy, all_gather.AllGather()

  def __call__(
    self,
    compute: Compute,
    weights: dict[str, jax.Array],
    x_TD: jax.Array,
    routing: contract.Routing,
    num_experts: int,
  ) -> ExpertOutput:
    if compute.equal_stages is not None:
      # Grouping the received rows once more would apply the capacity of the
      # dispatcher a second time.
      return equal_groups.exchange(
        compute.equal_stages, weights, x_TD, routing, num_experts
      )
    call = (compute, weights, x_TD, routing, num_experts)
    exchange, fits_A = self.exchange(*call)
    asked_A = routing.expert_A < num_experts
    overflowed = jnp.sum(asked_A & ~fits_A, dtype=jnp.float32)
    if self.overflow != 'dropless':
      return ExpertOutput(exchange(), asked_A & fits_A, overflowed)

    def fallback():
      return all_gather.AllGather()(*call).out_TD

    # Both branches communicate, so all devices must take the same one.
    too_many = jax.lax.psum(overflowed, meshes.BATCH_AXES) > 0
    out_TD = jax.lax.cond(too_many, fallback, exchange)
    return ExpertOutput(out_TD, asked_A, overflowed)
