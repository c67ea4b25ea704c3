"""Rows move to their experts and back, in buffers of a fixed size."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from moejax.core import fields
from moejax.moe import contract
from moejax.moe.compute import permute
from moejax.moe.compute.base import Compute
from moejax.moe.expert_parallel import bounded
from moejax.moe.expert_parallel.base import AXIS
from moejax.moe.expert_parallel.rows import rows_through, swap


@dataclasses.dataclass(frozen=True)
class AllToAll(bounded.Bounded):
  """All-to-all of rows, local experts, all-to-all of outputs.

  1. Every device has a buffer of C rows for each of the P devices, and fills
     the buffers with the rows of its A assignments, in the order of the list.
     C = factor * A / P: with factor 1 the buffers have room for perfect balance
     over devices, with factor P for every assignment.
  2. An all-to-all moves the buffers, and the expert number of each row.
  3. The receiver groups the rows by its own experts and computes the experts.
  4. An all-to-all moves the outputs back, where each token's rows are summed.

  With the capacity dispatcher every expert has the same number of rows, no
  buffer can overflow, and the received rows are multiplied as one batch
  (GShard, arXiv 2006.16668, section 3.2).

  Bytes that a device sends per layer forward, with b bytes per number:
  2 (P - 1) C D b, and 4 (P - 1) C of expert numbers; backward 2 (P - 1) C D b.
  At perfect balance and factor 1 the rows alone are the least that has to move
  when every assignment travels by itself: 2 (P - 1) / P A D b.

  Attributes:
    factor: rows of a buffer, over those that perfect balance over the devices
      needs.
    overflow: what happens to assignments that do not fit into a buffer; see
      `bounded`.
    chunks: number of chunks in which buffers move, one after the other, so that
      XLA can compute one chunk while the next one moves.
  """

  factor: float = fields.number(1.5, above=0, at_most=1000)
  chunks: int = fields.number(1, at_least=1)

  def row_overhead(self, num_devices: int) -> float:
    return max(1.0, min(self.factor, num_devices))

  def exchange(
    self,
    compute: Compute,
    weights: dict[str, jax.Array],
    x_TD: jax.Array,
    routing: contract.Routing,
    num_experts: int,
  ) -> tuple[Callable[[], jax.Array], jax.Array]:
    num_devices = jax.lax.axis_size(AXIS)
    own = num_experts // num_devices
    room = self._room(routing.expert_A.shape[0], num_devices)
    slots = _buffer_slots(routing.expert_A // own, num_devices, room)
    fits_A = slots.row_A < num_devices * room
    move = functools.partial(
      self._move, compute, weights, x_TD, routing, slots, own
    )
    return move, fits_A

  def _room(self, num_assignments: int, num_devices: int) -> int:
    """C, rows of a buffer; a multiple of `chunks`."""
    room = math.ceil(round(self.factor * num_assignments / num_devices, 6))
    return -(-min(room, num_assignments) // self.chunks) * self.chunks

  def _move(self, compute, weights, x_TD, routing, slots, own):
    """out_TD: the sum over the assignments that fit into a buffer.

    The S = P * C slots are the rows of all buffers of this device.
    """
    num_devices = jax.lax.axis_size(AXIS)
    x_SD = permute.gather(x_TD, routing.token_A, slots, routing.per_token)
    # Local experts are 0 to own - 1; `own` marks an empty slot.
    expert_A = jnp.append(routing.expert_A % own, own)
    expert_S = expert_A[slots.assignment_R]

    def exchange_chunk(x_PCD, expert_PC):
      """y_PCD for one chunk of the buffers, each output in its input's slot."""
      y_PCD = rows_through(compute, weights, swap(x_PCD), swap(expert_PC), own)
      return swap(y_PCD)

    chunks = zip(
      jnp.split(x_SD.reshape(num_devices, -1, x_SD.shape[1]), self.chunks, 1),
      jnp.split(expert_S.reshape(num_devices, -1), self.chunks, 1),
      strict=True,
    )
    y_PCD = jnp.concatenate(
      [exchange_chunk(*chunk) for chunk in chunks], axis=1
    )
    return permute.combine(
      y_PCD.reshape(x_SD.shape[0], -1),
      routing.weight_A,
      routing.token_A,
      slots,
      x_TD.shape[0],
      routing.per_token,
    )


def _buffer_slots(
  device_A: jax.Array, num_devices: int, room: int
) -> permute.Grouping:
  """The slot of each assignment in the buffer for its device.

  Example, 2 devices, buffers of 2 slots: an assignment list for the devices
  [1, 0, 1, 1] has row_A [2, 0, 3, 4]; 4 = S says that the last one does not
  fit.

  Args:
    device_A: int32, the device of each assignment; P and beyond is none.
    num_devices: P.
    room: C, slots of each buffer.
  """
  (num_assignments,) = device_A.shape
  total = num_devices * room
  device_A = jnp.minimum(device_A, num_devices)
  sorted_by = permute.group(device_A, num_devices, 1)
  first_P = jnp.cumsum(sorted_by.size_E) - sorted_by.size_E
  rank_A = sorted_by.row_A - jnp.append(first_P, 0)[device_A]
  has_A = (device_A < num_devices) & (rank_A < room)
  row_A = jnp.where(has_A, device_A * room + rank_A, total)
  assignment_R = (
    jnp
    .full((total,), num_assignments, jnp.int32)
    .at[row_A]
    .set(jnp.arange(num_assignments, dtype=jnp.int32), mode='drop')
  )
  size_P = jnp.full((num_devices,), room, jnp.int32)
  return permute.Grouping(row_A, assignment_R, size_P)
