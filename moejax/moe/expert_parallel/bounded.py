"""What happens when more rows want to travel than there is room for.

drop      they are dropped, and counted
dropless  this layer is computed by `all_gather` instead, by all devices as soon
          as one has too little room: nothing is lost but time
repeat    they are dropped and counted, and the training step, which sees the
          count, computes the whole batch again with `all_gather`; so the common
          step has no branch in its layers. Evaluation drops
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from moejax.moe import contract
from moejax.parallel import mesh as meshes

OVERFLOWS = ('drop', 'dropless', 'repeat')


def either(
  overflow: str,
  travel: Callable[[], jax.Array],
  stay: Callable[[], jax.Array],
  *,
  asked_A: jax.Array,
  fits_A: jax.Array,
) -> contract.Output:
  """The output of an exchange with bounded room.

  Args:
    overflow: one of OVERFLOWS.
    travel: gives out_TD of the assignments that fit.
    stay: gives out_TD of all of them.
    asked_A: which assignments name an expert.
    fits_A: which of them have room.
  """
  lost = jnp.sum(asked_A & ~fits_A, dtype=jnp.float32)
  if overflow != 'dropless':
    return contract.Output(travel(), asked_A & fits_A, lost)
  # Both branches communicate, so all devices must take the same one.
  too_many = jax.lax.psum(lost, meshes.BATCH_AXES) > 0
  out_TD = jax.lax.cond(too_many, stay, travel)
  return contract.Output(out_TD, asked_A, lost)
