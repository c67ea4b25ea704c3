"""Rows travel to their experts and back, through buffers of a fixed size."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from moejax.core import fields, varying
from moejax.moe import contract
from moejax.moe.compute import permute
from moejax.moe.expert_parallel import all_gather, bounded

AXIS = 'expert'


@dataclasses.dataclass(frozen=True)
class AllToAll(fields.Checked):
  """One all-to-all there, local experts, one all-to-all back.

  1. Every device keeps, for each of the P devices, a buffer of C rows, and puts
     its assignments into them in the order of the list. C = factor * A / P of
     its A assignments, so factor 1 is room for perfect balance over devices,
     and factor P is room for everything.
  2. Buffers travel; so do the rows' expert numbers.
  3. The receiver groups what it got by its own experts and computes them.
  4. Outputs travel back, and each token sums its own.

  With the capacity dispatcher every expert has the same number of rows, nothing
  can overflow, and the received rows are multiplied as one batch (GShard, arXiv
  2006.16668, section 3.2).

  Bytes that a device sends per layer forward, with b bytes per number:
  2 (P - 1) C D b, and 4 (P - 1) C of expert numbers; backward 2 (P - 1) C D b.
  At perfect balance and factor 1 the rows alone are the least that has to move
  when every assignment travels by itself: 2 (P - 1) / P A D b.

  Attributes:
    factor: room over what perfect balance over the devices needs.
    overflow: what happens to assignments beyond a buffer; see `bounded`.
    chunks: buffers travel in so many parts, one after the other, so that XLA
      can compute one while the next is on its way.
  """

  factor: float = fields.number(1.5, above=0, at_most=1000)
  overflow: str = fields.named(bounded.OVERFLOWS, 'dropless')
  chunks: int = fields.number(1, at_least=1)

  @property
  def gathers_experts(self) -> bool:
    return False

  def room(self, num_devices: int) -> float:
    return max(1.0, min(self.factor, num_devices))

  def __call__(self, run, weights, x_TD, routing, num_experts):
    if run.dispatcher.equal_groups:
      return equal_groups(run, weights, x_TD, routing, num_experts)
    num_devices = jax.lax.axis_size(AXIS)
    own = num_experts // num_devices
    room = self._room(routing.expert_A.shape[0], num_devices)
    note = _places(routing.expert_A // own, num_devices, room)

    def travel():
      return self._travel(run, weights, x_TD, routing, note, own)

    def stay():
      return all_gather.AllGather()(
        run, weights, x_TD, routing, num_experts
      ).out_TD

    return bounded.either(
      self.overflow,
      travel,
      stay,
      asked_A=routing.expert_A < num_experts,
      fits_A=note.row_A < num_devices * room,
    )

  def _room(self, num_assignments: int, num_devices: int) -> int:
    """C, a multiple of the chunks."""
    room = math.ceil(round(self.factor * num_assignments / num_devices, 6))
    return -(-min(room, num_assignments) // self.chunks) * self.chunks

  def _travel(self, run, weights, x_TD, routing, note, own):
    num_devices = jax.lax.axis_size(AXIS)
    x_SD = permute.gather(x_TD, routing.token_A, note, routing.per_token)
    expert_A = jnp.append(routing.expert_A % own, own)  # own: no expert
    expert_S = expert_A[note.assignment_R]

    def there_and_back(x_PCD, expert_PC):
      """One part of the buffers; outputs are in the places of the inputs."""
      y_PCD = rows_through(run, weights, swap(x_PCD), swap(expert_PC), own)
      return swap(y_PCD)

    parts = zip(
      jnp.split(x_SD.reshape(num_devices, -1, x_SD.shape[1]), self.chunks, 1),
      jnp.split(expert_S.reshape(num_devices, -1), self.chunks, 1),
      strict=True,
    )
    y_PCD = jnp.concatenate([there_and_back(*part) for part in parts], axis=1)
    return permute.combine(
      y_PCD.reshape(x_SD.shape),
      routing.weight_A,
      routing.token_A,
      note,
      x_TD.shape[0],
      routing.per_token,
    )


def swap(x_PN: jax.Array) -> jax.Array:
  """Sends the p-th part to device p; returns what each sent here."""
  return jax.lax.all_to_all(x_PN, AXIS, split_axis=0, concat_axis=0)


def rows_through(run, weights, x_ND, expert_N, own: int) -> jax.Array:
  """Rows through the local experts, each through one; zeros for id `own`.

  Args:
    run: a `compute.Compute`.
    weights: of the local experts.
    x_ND: rows, with any dimensions in front.
    expert_N: the local expert of each.
    own: how many local experts there are.
  """
  x_TD, expert_A = x_ND.reshape(-1, x_ND.shape[-1]), expert_N.reshape(-1)
  one_A = varying.like(jnp.ones(expert_A.shape, jnp.float32), x_TD)
  one_each = contract.Routing(
    token_A=jnp.arange(expert_A.shape[0], dtype=jnp.int32),
    expert_A=expert_A,
    weight_A=one_A,
    prob_TE=jnp.zeros((expert_A.shape[0], own)),
    per_token=1,
  )
  return run(weights, x_TD, one_each, own).out_TD.reshape(x_ND.shape)


def _places(device_A: jax.Array, num_devices: int, room: int):
  """A place in the buffer of its device for each assignment, if there is one.

  Example, 2 devices, room 2, devices [1, 0, 1, 1]: row_A [2, 0, 3, 4], where 4
  is no place.
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


def equal_groups(run, weights, x_TD, routing, num_experts):
  """Groups of one size: the rows travel as they are, one batch of them."""
  num_devices = jax.lax.axis_size(AXIS)
  own, width = num_experts // num_devices, x_TD.shape[1]
  x_RD, size_E, note = run.dispatcher.dispatch(
    x_TD, routing, num_experts, run.multiply.row_multiple
  )
  rows = x_RD.shape[0] // num_experts
  x_PECD = swap(x_RD.reshape(num_devices, own, rows, width))
  x_ED = x_PECD.swapaxes(0, 1).reshape(-1, width)
  size_own = size_E[:own] * num_devices
  y_ED = run.experts(weights, x_ED, size_own, run.multiply)
  y_EPCD = y_ED.reshape(own, num_devices, rows, width)
  y_RD = swap(y_EPCD.swapaxes(0, 1)).reshape(x_RD.shape)
  out_TD = run.dispatcher.combine(y_RD, routing, note, x_TD.shape[0])
  return contract.Output(
    out_TD, note.row_A < x_RD.shape[0], jnp.zeros((), jnp.float32)
  )
