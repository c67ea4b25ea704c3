"""Rows move to their experts and back, in buffers of a fixed size."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from moejax.core import fields, varying
from moejax.moe import contract
from moejax.moe.compute import permute
from moejax.moe.compute.base import Compute, ExpertOutput, Stages
from moejax.moe.expert_parallel import all_gather, bounded
from moejax.moe.expert_parallel.base import AXIS, ExpertParallel


@dataclasses.dataclass(frozen=True)
class AllToAll(fields.Checked):
  """All-to-all of rows, local experts, all-to-all of outputs.

  1. Every device keeps, for each of the P devices, a buffer of C rows, and puts
     its assignments into them in the order of the list. C = factor * A / P of
     its A assignments, so factor 1 is room for perfect balance over devices,
     and factor P is room for everything.
  2. An all-to-all moves the buffers, and the expert number of each row.
  3. The receiver groups the rows by its own experts and computes them.
  4. An all-to-all moves the outputs back, and each token sums its own.

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
    chunks: number of parts in which buffers move, one after the other, so that
      XLA can compute one part while the next one moves.
  """

  factor: float = fields.number(1.5, above=0, at_most=1000)
  overflow: str = fields.named(bounded.OVERFLOWS, 'dropless')
  chunks: int = fields.number(1, at_least=1)

  @property
  def gathers_experts(self) -> bool:
    return False

  def room(self, num_devices: int) -> float:
    return max(1.0, min(self.factor, num_devices))

  def lossless(self, num_devices: int) -> tuple[ExpertParallel, ...]:
    roomy = dataclasses.replace(self, factor=float(num_devices))
    return bounded.with_fallback(roomy, self.overflow)

  def __call__(
    self,
    compute: Compute,
    weights: dict[str, jax.Array],
    x_TD: jax.Array,
    routing: contract.Routing,
    num_experts: int,
  ) -> ExpertOutput:
    stages = compute.equal_stages
    if stages is not None:
      return exchange_equal_groups(stages, weights, x_TD, routing, num_experts)
    num_devices = jax.lax.axis_size(AXIS)
    own = num_experts // num_devices
    room = self._room(routing.expert_A.shape[0], num_devices)
    note = _places(routing.expert_A // own, num_devices, room)

    def exchange():
      return self._exchange(compute, weights, x_TD, routing, note, own)

    def fallback():
      return all_gather.AllGather()(
        compute, weights, x_TD, routing, num_experts
      ).out_TD

    return bounded.exchange_or_fallback(
      self.overflow,
      exchange,
      fallback,
      asked_A=routing.expert_A < num_experts,
      fits_A=note.row_A < num_devices * room,
    )

  def _room(self, num_assignments: int, num_devices: int) -> int:
    """C, a multiple of the chunks."""
    room = math.ceil(round(self.factor * num_assignments / num_devices, 6))
    return -(-min(room, num_assignments) // self.chunks) * self.chunks

  def _exchange(self, compute, weights, x_TD, routing, note, own):
    """out_TD of the assignments that have a place in a buffer."""
    num_devices = jax.lax.axis_size(AXIS)
    x_SD = permute.gather(x_TD, routing.token_A, note, routing.per_token)
    expert_A = jnp.append(routing.expert_A % own, own)  # own: no expert
    expert_S = expert_A[note.assignment_R]

    def exchange_chunk(x_PCD, expert_PC):
      """One chunk of the buffers; outputs are in the places of the inputs."""
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
      y_PCD.reshape(x_SD.shape),
      routing.weight_A,
      routing.token_A,
      note,
      x_TD.shape[0],
      routing.per_token,
    )


def swap(x_PN: jax.Array) -> jax.Array:
  """Sends the p-th part to device p; returns what each device sent here."""
  return jax.lax.all_to_all(x_PN, AXIS, split_axis=0, concat_axis=0)


def rows_through(
  compute: Compute,
  weights: dict[str, jax.Array],
  x_ND: jax.Array,
  expert_N: jax.Array,
  own: int,
) -> jax.Array:
  """Rows through the local experts, each through one; zeros for id `own`.

  Args:
    compute: computes the local experts.
    weights: of the local experts.
    x_ND: rows, with any dimensions in front.
    expert_N: the local expert of each.
    own: number of local experts.
  """
  x_TD, expert_A = x_ND.reshape(-1, x_ND.shape[-1]), expert_N.reshape(-1)
  weight_A = varying.like(jnp.ones(expert_A.shape, jnp.float32), x_TD)
  routing = contract.Routing(
    token_A=jnp.arange(expert_A.shape[0], dtype=jnp.int32),
    expert_A=expert_A,
    weight_A=weight_A,
    prob_TE=jnp.zeros((expert_A.shape[0], own)),
    per_token=1,
  )
  return compute(weights, x_TD, routing, own).out_TD.reshape(x_ND.shape)


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


def exchange_equal_groups(
  stages: Stages,
  weights: dict[str, jax.Array],
  x_TD: jax.Array,
  routing: contract.Routing,
  num_experts: int,
) -> ExpertOutput:
  """The same where every expert has equally many rows: one batch of them.

  The rows move between the stages, already grouped by expert, so no expert
  numbers move with them and nothing can overflow.
  """
  num_devices = jax.lax.axis_size(AXIS)
  own, width = num_experts // num_devices, x_TD.shape[1]
  x_RD, size_E, note = stages.dispatch(x_TD, routing, num_experts)
  rows = x_RD.shape[0] // num_experts
  x_PECD = swap(x_RD.reshape(num_devices, own, rows, width))
  x_ED = x_PECD.swapaxes(0, 1).reshape(-1, width)
  size_own = size_E[:own] * num_devices
  y_ED = stages.apply(weights, x_ED, size_own)
  y_EPCD = y_ED.reshape(own, num_devices, rows, width)
  y_RD = swap(y_EPCD.swapaxes(0, 1)).reshape(x_RD.shape)
  out_TD = stages.combine(y_RD, routing, note, x_TD.shape[0])
  return ExpertOutput(
    out_TD, note.row_A < x_RD.shape[0], jnp.zeros((), jnp.float32)
  )
