"""Meshes, remat policies and micro-batches, tried by compiling only.

1. All combinations that the sizes allow.
2. Arithmetic throws out those whose state alone is too large, and puts the
rest in order by a rough time.
3. The first few are compiled, and sorted by the compiler's estimate. What does
not compile or does not fit is a row that says why.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from moejax.core import errors
from moejax.parallel.mesh import AXES, MeshConfig
from moejax.plan import count, plan
from moejax.plan.topology import Slice

# A rough price of computing again, over a step that keeps all, by policy; a
# policy that is not here is not tried.
RECOMPUTED = {'none': 1.0, 'matmuls': 1.08, 'full': 4 / 3}
# Numbers that a layer keeps for a token, in units of the model's width.
_KEPT = {'none': 60.0, 'matmuls': 16.0, 'full': 1.0}
# Of a layer that is being computed, the same.
_WORKING = 80.0
# Beyond so much of the memory a candidate is not worth a compile.
_MOST = 1.2


@dataclasses.dataclass(frozen=True)
class Candidate:
  """What is varied."""

  mesh: MeshConfig
  remat: str
  micro_batches: int

  def of(self, run: Any) -> Any:
    """The run with these settings."""
    return dataclasses.replace(
      run,
      mesh=self.mesh,
      model=dataclasses.replace(run.model, remat=self.remat),
      train=dataclasses.replace(run.train, micro_batches=self.micro_batches),
    )

  @property
  def mesh_text(self) -> str:
    """Axes longer than 1."""
    sizes = ((axis, getattr(self.mesh, axis)) for axis in AXES)
    return ' '.join(f'{k}={v}' for k, v in sizes if v > 1) or 'one device'


@dataclasses.dataclass(frozen=True)
class Row:
  """What came of a candidate.

  Attributes:
    candidate: what was tried.
    fits: whether it compiled and fits.
    total: bytes a device.
    step: seconds by the compiler's estimate; None on CPU.
    utilisation: of model FLOPs, at that.
    seconds: to compile.
    note: why it is no good, or what bounds it.
  """

  candidate: Candidate
  fits: bool
  total: float | None = None
  step: float | None = None
  utilisation: float | None = None
  seconds: float | None = None
  note: str = ''


def run(
  run: Any, where: Slice, limit: int, say: Callable[[str], None]
) -> list[Row]:
  """The rows of the first `limit` candidates, the best first.

  Raises:
    InputError: there is nothing to try.
  """
  found = candidates(run, where)
  if not found:
    raise errors.InputError(
      f'no mesh of {len(where.devices)} devices fits the sizes and the memory; '
      'take more chips'
    )
  say(f'{len(found)} combinations may fit; compiling {min(limit, len(found))}.')
  rows = []
  for candidate in found[:limit]:
    rows.append(try_one(run, where, candidate))
    say(
      f'  {candidate.mesh_text}, remat={candidate.remat}, '
      f'micro-batches={candidate.micro_batches}: {rows[-1].note}'
    )
  return sorted(rows, key=lambda row: (not row.fits, row.step or 0.0))


def try_one(run: Any, where: Slice, candidate: Candidate) -> Row:
  """Compiles one; whatever is wrong with it becomes its note."""
  try:
    found = plan.make(candidate.of(run), where)
  except Exception as e:  # noqa: BLE001 (one must not end the search)
    return Row(candidate, False, note=' '.join(str(e).split())[:160])
  seconds = sum(found.seconds.values())
  total = found.memory.total
  if not found.fits:
    why = found.memory.refusal or 'too large'
    return Row(candidate, False, total, seconds=seconds, note=why)
  step = used = None
  note = 'fits'
  if found.times is not None:
    step = found.times.compiler
    used = found.estimates()['compiler']['model_flops_utilisation']
    note = f'fits; roofline bound by {found.times.bound}'
  return Row(candidate, True, total, step, used, seconds, note)


def candidates(run: Any, where: Slice) -> list[Candidate]:
  """What may fit, the most promising first."""
  found, counted = [], count.count(run.model)
  for mesh in meshes(run, len(where.devices)):
    parts = mesh.data * mesh.fsdp * mesh.expert
    for remat, micro in itertools.product(RECOMPUTED, _micro(run, parts)):
      one = Candidate(mesh, remat, micro)
      needed, time = _rough(run, where, one, counted)
      if needed <= _MOST * where.memory:
        found.append((time, one))
  return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def meshes(run: Any, number: int) -> list[MeshConfig]:
  """Every way to share out the devices that weights and experts divide over."""
  model, found = run.model, []
  for expert, split in itertools.product(_divisors(number), repeat=2):
    if number % (expert * split):
      continue
    if expert > 1 and (not model.num_moe or model.moe.num_experts % expert):
      continue
    if model.kv_heads % split or model.dense_width % split:
      continue
    if model.num_moe and model.moe.expert_width % split:
      continue
    rest = number // (expert * split)
    found += [
      dataclasses.replace(
        run.mesh, data=rest // fsdp, fsdp=fsdp, expert=expert, model=split
      )
      for fsdp in _divisors(rest)
      if model.width % fsdp == 0
    ]
  return found


def to_json(rows: Sequence[Row]) -> dict[str, Any]:
  """The table in plain numbers and words."""
  return {
    'sources': plan.SOURCES,
    'rows': [
      {
        **dataclasses.asdict(row),
        'mesh': {axis: getattr(row.candidate.mesh, axis) for axis in AXES},
      }
      for row in rows
    ],
  }


def _divisors(number: int) -> list[int]:
  return [n for n in range(1, number + 1) if number % n == 0]


def _micro(run: Any, parts: int) -> list[int]:
  """Numbers of micro-batches that leave each part whole rows."""
  rows = run.train.batch_size
  return [n for n in _divisors(rows) if rows // n % parts == 0]


def _rough(
  run: Any, where: Slice, one: Candidate, counted: count.Count
) -> tuple[float, float]:
  """Bytes on a device, and seconds of a step, by arithmetic; rough.

  Attention is taken to be flash, weights are gathered once in bfloat16 for
  every pass of every micro-batch, rows travel four times.
  """
  model, mesh = run.model, one.mesh
  routed = counted.total_of['routed experts'] / mesh.expert
  own = (
    counted.total - counted.total_of['routed experts'] + routed
  ) / mesh.model
  length = run.data.sequence_length
  parts = mesh.data * mesh.fsdp * mesh.expert
  tokens = run.train.batch_size * length / parts / one.micro_batches
  kept = _KEPT[one.remat] * model.num_layers + _WORKING
  activations = kept * tokens * model.width * 2
  needed = own / mesh.fsdp * 16 + activations
  chip = where.chip
  if chip is None:
    return needed, RECOMPUTED[one.remat] * one.micro_batches
  flops = counted.flops(length) * run.train.batch_size / len(where.devices)
  compute = flops * RECOMPUTED[one.remat] / chip.peak
  gathered = 3 * 2 * own * one.micro_batches if mesh.fsdp > 1 else 0.0
  gathered += 8 * own / mesh.fsdp if mesh.data > 1 else 0.0
  rows = model.moe.experts_per_token if model.num_moe and mesh.expert > 1 else 0
  sums = 4.0 if mesh.model > 1 else 0.0
  moved = 4 * (rows + sums) * tokens * one.micro_batches * model.width * 2
  moved *= model.num_layers
  return needed, compute + (gathered + moved) / chip.ici_bandwidth
