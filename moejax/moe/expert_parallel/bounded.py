"""OVERFLOWS: what happens to assignments that do not fit into a buffer.

drop      the assignments are dropped and counted
dropless  if a buffer of any device is too small, all devices compute this layer
          by `all_gather` instead; the price is time
repeat    the assignments are dropped and counted; a training step whose count
          is not 0 recomputes the whole batch with `all_gather`. So a step
          without overflow has no branch in its layers. Evaluation drops
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from moejax.moe.compute.base import ExpertOutput
from moejax.moe.expert_parallel import all_gather
from moejax.moe.expert_parallel.base import ExpertParallel
from moejax.parallel import mesh as meshes

OVERFLOWS = ('drop', 'dropless', 'repeat')


def exchange_or_fallback(
  overflow: str,
  exchange: Callable[[], jax.Array],
  fallback: Callable[[], jax.Array],
  *,
  asked_A: jax.Array,
  fits_A: jax.Array,
) -> ExpertOutput:
  """The output of expert parallelism whose buffers have bounded room.

  Args:
    overflow: one of OVERFLOWS.
    exchange: computes out_TD from the assignments that fit into buffers.
    fallback: computes out_TD from all assignments.
    asked_A: bool, whether the assignment names an expert.
    fits_A: bool, whether it fits into a buffer.
  """
  overflowed = jnp.sum(asked_A & ~fits_A, dtype=jnp.float32)
  if overflow != 'dropless':
    return ExpertOutput(exchange(), asked_A & fits_A, overflowed)
  # Both branches communicate, so all devices must take the same one.
  too_many = jax.lax.psum(overflowed, meshes.BATCH_AXES) > 0
  out_TD = jax.lax.cond(too_many, fallback, exchange)
  return ExpertOutput(out_TD, asked_A, overflowed)


def with_fallback(
  expert_parallel: ExpertParallel, overflow: str
) -> tuple[ExpertParallel, ...]:
  """The expert parallelism, and `all_gather` where it is the fallback."""
  if overflow == 'drop':
    return (expert_parallel,)
  return expert_parallel, all_gather.AllGather()
