"""Rows move to their experts and back, without padding."""

import dataclasses
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
from moejax.moe.expert_parallel.rows import rows_through
from moejax.parallel import collectives


@dataclasses.dataclass(frozen=True)
class RaggedAllToAll(bounded.Bounded):
  """Ragged all-to-all of rows, local experts, ragged all-to-all of outputs.

  Only assigned rows move. The buffer of a receiver is bounded: it has
  factor * A rows, for A assignments on each of P devices. Factor 1 has room for
  perfect balance. Factor P has room for every assignment, which is dropless and
  takes P times the memory; 0 means P.

  Bytes that a device sends per layer forward, with b bytes per number, at
  perfect balance: 2 (P - 1) / P A D b for rows, which is the minimum when every
  assignment travels by itself, and 4 (P - 1) / P A of expert numbers; backward
  2 (P - 1) / P A D b. XLA for CPU has no such collective, and
  `parallel.collectives` gathers everything there instead. With the capacity
  dispatcher all groups have one size, and rows travel as in `equal_groups`.

  Attributes:
    factor: rows of a receiver's buffer, over those that perfect balance needs;
      0: room for all.
    overflow: what happens to assignments that do not fit into it; see
      `bounded`.
  """

  factor: float = fields.number(
    0.0, at_least=0, at_most=1000, note='0: room for all'
  )

  def row_overhead(self, num_devices: int) -> float:
    return max(1.0, min(self.factor or num_devices, num_devices))

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
    (num_assignments,) = routing.expert_A.shape
    factor = min(self.factor or num_devices, num_devices)
    room = math.ceil(round(factor * num_assignments, 6))
    device_A = jnp.minimum(routing.expert_A // own, num_devices)
    note = permute.group(device_A, num_devices, 1)
    plan = collectives.plan(note.size_E, room, AXIS)

    def move():
      x_SD = permute.gather(x_TD, routing.token_A, note, routing.per_token)
      expert_A = jnp.append(routing.expert_A % own, own)
      # Expert numbers plus 1, since rows that no device sent arrive as 0.
      expert_S = expert_A[note.assignment_R] + 1
      x_RD = collectives.move(x_SD, plan, room, AXIS)
      expert_R = collectives.move(expert_S[:, None], plan, room, AXIS)[:, 0]
      expert_R = jnp.where(expert_R == 0, own, expert_R - 1)
      y_RD = rows_through(compute, weights, x_RD, expert_R, own)
      y_SD = collectives.move(y_RD, plan.reversed(), x_SD.shape[0], AXIS)
      return permute.combine(
        y_SD,
        routing.weight_A,
        routing.token_A,
        note,
        x_TD.shape[0],
        routing.per_token,
      )

    device = jax.lax.axis_index(AXIS)
    first_P = jnp.append(plan.first_PP[device], 0)
    count_P = jnp.append(plan.count_PP[device], 0)
    rank_A = note.row_A - first_P[device_A]
    return move, rank_A < count_P[device_A]
