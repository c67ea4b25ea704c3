"""OVERFLOWS: what happens to assignments beyond the room of a buffer.

drop      they are dropped, and counted
dropless  if any device has too little room, all devices compute this layer by
          `all_gather` instead: only time is lost
repeat    they are dropped and counted, and the training step, which sees the
          count, recomputes the whole batch with `all_gather`; so the usual step
          has no branch in its layers. Evaluation drops
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
    exchange: computes out_TD of the assignments that have room.
    fallback: computes out_TD of all assignments.
    asked_A: which assignments name an expert.
    fits_A: which of them have room.
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
  """Expert parallelism, and what computes a layer that overflows, if any."""
  if overflow == 'drop':
    return (expert_parallel,)
  return expert_parallel, all_gather.AllGather()
