"""A pipeline of stages over the mesh axis `stage`, by a circular schedule.

The layers are cut into R x S equal groups, in their order. Device s of the S
along the axis is stage s and holds groups s, S + s, 2 S + s, ...: a microbatch
goes around the ring of devices R times. R = 1 is the schedule of GPipe (arXiv
1811.06965), R > 1 the interleaved one of Megatron-LM (arXiv 2104.04473, section
2.2). It is written as in GSPMD (arXiv 2105.04663, section 3.3): all stages
compute at once, each on another microbatch, and then a buffer is shifted by one
stage. The circular form follows praxis and MaxText's pipeline layer.

Iteration t, stage s: visit u = t - s, repeat u // M of microbatch u % M. There
are M R + S - 1 iterations, in S - 1 of which a stage computes nothing of use:

  S = 2, M = 2, R = 2   (a0: first visits of microbatch a, a1: its second ones)
    iteration   0   1   2   3   4
    stage 0     a0  b0  a1  b1  -
    stage 1     -   a0  b0  a1  b1

Microbatches that wait for stage 0 are in a second ring, so that each device
holds M / S of them. What is to be read in iteration i is at place 0 of slot i %
q then, q = M / S. A slot is shifted by one place whenever it has been read. The
last stage writes what it computed in iteration t, to be read in iteration
t + M - (S - 1), where it will be in time. The results lie there too, as if they
were to be read after the last iteration.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from moejax.parallel import mesh as meshes
from moejax.parallel import rules

AXIS = meshes.STAGE

# visit(weights, state, reads, shared, stage, repeat) -> (state, out)
Visit = Callable[..., tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Schedule:
  """The numbers of a pipeline.

  Attributes:
    stages: S, devices along the axis.
    repeats: R, how often a microbatch passes each of them.
    microbatches: M, a multiple of S.
  """

  stages: int
  repeats: int
  microbatches: int

  @property
  def iterations(self) -> int:
    """Visits of a device, those of the bubble included."""
    return self.microbatches * self.repeats + self.stages - 1

  @property
  def bubble(self) -> float:
    """The share of iterations in which a device computes nothing of use.

    (S - 1) / (M R + S - 1); Megatron-LM (arXiv 2104.04473, section 2.2) has the
    ratio of these iterations to the others, (S - 1) / (M R).
    """
    return (self.stages - 1) / self.iterations

  @property
  def slots(self) -> int:
    """q, the microbatches that wait on each device."""
    return self.microbatches // self.stages

  @property
  def entry(self) -> int:
    """The place at which the last stage's results enter the waiting ring.

    A slot is read every q iterations: (M - S) // q times between the iteration
    that writes and the one that reads, M - (S - 1) later.
    """
    return (self.microbatches - self.stages) // self.slots


def run(
  schedule: Schedule,
  mesh: Mesh,
  visit: Visit,
  weights: Any,
  rows: tuple[Any, Any, Any],
  merge: Callable[[Any], Any],
) -> tuple[Any, Any]:
  """Passes the rows of a batch through all groups of layers.

  Args:
    schedule: the numbers of the pipeline.
    mesh: the devices.
    visit: `state, out = visit(weights, state, reads, shared, stage, repeat)`,
      the groups of one stage and repeat for the rows of one microbatch. It
      gets the weights of all repeats, [K, R, ...].
    weights: arrays [N, ...] in the order of the layers, split over the axis;
      N = R S K.
    rows: `state`, arrays [B, ...] that pass from group to group; `reads`,
      arrays [B, ...] that all groups read; and `shared`, arrays that do not
      depend on rows. M times the shards of rows divides B.
    merge: what to report of outs [M, R, ...] of all microbatches.

  Returns:
    The state after the last group, and the merged outs, [R, S, ...].
  """
  groups = math.prod(mesh.shape[a] for a in meshes.ROW_AXES)
  state, reads, shared = rows
  cut = lambda x: _cut(x, schedule, groups)
  whole = PartitionSpec()

  def device(stage_1, weights, state, reads, shared):
    stage = stage_1[0]
    weights = jax.tree.map(lambda x: _dealt(x, schedule, stage), weights)
    ring = jax.tree.map(lambda x: _microbatches(x[:, 0], 1, mesh), state)
    reads_M = jax.tree.map(lambda x: _microbatches(x, 2, mesh), reads)
    at = _Device(schedule, stage)
    ring, outs_T = at.run(visit, weights, ring, reads_M, shared)
    state = jax.tree.map(lambda x: _rows(x, groups, mesh), at.sorted(ring))
    outs = merge(jax.tree.map(at.visits, outs_T))
    return state, jax.tree.map(lambda x: x[:, None], outs)

  by_stage = PartitionSpec(None, AXIS)
  state, outs = jax.shard_map(
    device,
    mesh=mesh,
    in_specs=(PartitionSpec(AXIS), PartitionSpec(AXIS), by_stage, whole, whole),
    out_specs=(by_stage, by_stage),
    axis_names={AXIS},
    check_vma=False,
  )(
    jnp.arange(schedule.stages),
    weights,
    jax.tree.map(cut, state),
    jax.tree.map(cut, reads),
    shared,
  )
  join = lambda x: x.reshape(math.prod(x.shape[:4]), *x.shape[4:])
  return jax.tree.map(join, state), outs


@dataclasses.dataclass(frozen=True)
class _Device:
  """One device's part of the schedule, inside `shard_map`.

  Attributes:
    schedule: the numbers of the pipeline.
    stage: s, the number of this device.
  """

  schedule: Schedule
  stage: jax.Array

  def run(
    self, visit: Visit, weights: Any, ring: Any, reads_M: Any, shared: Any
  ) -> tuple[Any, Any]:
    """All iterations; returns the waiting ring, and the outs of each."""
    stages, repeats, micro = dataclasses.astuple(self.schedule)
    is_first = self.stage == 0

    def iterate(carry: Any, t: jax.Array) -> tuple[Any, Any]:
      state, ring = carry
      slot = t % self.schedule.slots
      fresh = _at(ring, slot)
      state = _where(is_first, fresh, state)
      number = t - self.stage
      reads = _at(reads_M, number % micro)
      repeat = jnp.clip(number // micro, 0, repeats - 1)
      state, out = visit(weights, state, reads, shared, self.stage, repeat)
      ring = _put(ring, slot, self._moved(fresh, -1))
      moved = self._moved(state, 1)
      ring = self._enter(ring, t, state, moved)
      return (moved, ring), out

    # In the bubble a device computes on a microbatch that it holds, and not on
    # zeros, whose norm may have no finite gradient.
    start = _at(ring, 0), ring
    (_, ring), outs_T = jax.lax.scan(
      iterate, start, jnp.arange(self.schedule.iterations)
    )
    return ring, outs_T

  def _enter(self, ring: Any, t: jax.Array, state: Any, moved: Any) -> Any:
    """The ring with what the last stage has computed in iteration t."""
    last, place = self.schedule.stages - 1, self.schedule.entry
    if place == last:
      came = state
    elif place == 0:
      came = moved
    else:
      send = lambda x: jax.lax.ppermute(x, AXIS, [(last, place)])
      came = jax.tree.map(send, state)
    slot = (t - last) % self.schedule.slots
    # Before iteration S - 1 nothing has passed all stages.
    enters = (self.stage == place) & (t >= last)
    return _put(ring, slot, _where(enters, came, _at(ring, slot)))

  def sorted(self, ring: Any) -> Any:
    """The results in the places of their inputs.

    Result m is to be read in iteration M R + m. Its place is the number of
    times that its slot i = m % q is read between the last iteration and that
    one: m // q + (i - (S - 1)) // q, modulo S.
    """
    slots, last = self.schedule.slots, self.schedule.stages - 1
    lag = [(slot - last) // slots for slot in range(slots)]
    runs = [(n, lag.index(n), lag.count(n)) for n in dict.fromkeys(lag)]
    move = lambda x: jnp.concatenate([
      self._moved(x[start : start + count], -n) for n, start, count in runs
    ])
    return jax.tree.map(move, ring)

  def visits(self, out_T: jax.Array) -> jax.Array:
    """The outs [M, R, ...] of this device's visits, without the bubble."""
    _, repeats, micro = dataclasses.astuple(self.schedule)
    out = jax.lax.dynamic_slice_in_dim(out_T, self.stage, micro * repeats)
    return out.reshape(repeats, micro, *out.shape[1:]).swapaxes(0, 1)

  def _moved(self, tree: Any, places: int) -> Any:
    """Arrays of the device `places` before this one in the ring."""
    size = self.schedule.stages
    pairs = [(s, (s + places) % size) for s in range(size)]
    if places % size == 0:
      return tree
    return jax.tree.map(lambda x: jax.lax.ppermute(x, AXIS, pairs), tree)


def _dealt(x_N: jax.Array, schedule: Schedule, stage: jax.Array) -> jax.Array:
  """This device's groups [R, K, ...] from those that it stores.

  A device stores consecutive layers: the groups s R to s R + R - 1. It computes
  the groups r S + s. Group g is number g % R of device g // R, and goes to
  device g % S. Every device sends the same number of groups to each, the last
  ones for some devices twice.
  """
  stages, repeats, _ = dataclasses.astuple(schedule)
  x_RK = x_N.reshape(repeats, x_N.shape[0] // repeats, *x_N.shape[1:])
  if repeats == 1 or stages == 1:
    return x_RK
  most = -(-repeats // stages)
  to_S1, nth = jnp.arange(stages)[:, None], jnp.arange(most)
  sent = nth * stages + (to_S1 - stage * repeats) % stages
  x_SnK = x_RK[jnp.minimum(sent, repeats - 1)]
  came_SnK = jax.lax.all_to_all(x_SnK, AXIS, 0, 0)
  group_R = jnp.arange(repeats) * stages + stage
  return came_SnK[group_R // repeats, group_R % repeats // stages]


def _cut(x_B: jax.Array, schedule: Schedule, groups: int) -> jax.Array:
  """[B, ...] as [groups of devices, S, q, rows of a microbatch, ...].

  No row changes its device: a device holds consecutive rows.
  """
  stages, slots = schedule.stages, schedule.slots
  each = x_B.shape[0] // (groups * stages * slots)
  return x_B.reshape(groups, stages, slots, each, *x_B.shape[1:])


def _microbatches(x: jax.Array, axes: int, mesh: Mesh) -> jax.Array:
  """[groups, (S,) q, rows, ...] as [microbatches, rows of all groups, ...]."""
  x = jnp.moveaxis(x, 0, axes)
  count, rows = math.prod(x.shape[:axes]), math.prod(x.shape[axes : axes + 2])
  x = x.reshape(count, rows, *x.shape[axes + 2 :])
  return _by_row(x, 1, mesh)


def _rows(x: jax.Array, groups: int, mesh: Mesh) -> jax.Array:
  """[q, rows, ...] of one device as [groups, 1, q, rows, ...]."""
  x = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
  return _by_row(jnp.moveaxis(x, 1, 0)[:, None], 0, mesh)


def _by_row(x: jax.Array, axis: int, mesh: Mesh) -> jax.Array:
  names = ['unsharded'] * x.ndim
  names[axis] = 'rows'
  return rules.constrain(x, tuple(names), mesh)


def _at(tree: Any, index: jax.Array | int) -> Any:
  return jax.tree.map(
    lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), tree
  )


def _put(tree: Any, index: jax.Array, new: Any) -> Any:
  return jax.tree.map(
    lambda x, y: jax.lax.dynamic_update_index_in_dim(x, y, index, 0), tree, new
  )


def _where(choose: jax.Array, a: Any, b: Any) -> Any:
  return jax.tree.map(lambda x, y: jnp.where(choose, x, y), a, b)
