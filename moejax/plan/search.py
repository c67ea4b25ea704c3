"""Meshes, remat, micro-batches, chunks and batches, tried by compiling only.

1. All combinations that the sizes allow.
2. Arithmetic (`rough`) throws out those that are too large, keeps of those that
differ in `token_chunks` alone the fastest, and puts the rest in order; the
config's own setting is the first whatever it says.
3. The first few are compiled, and sorted by the compiler's estimate. What does
not compile or does not fit is a row that says why.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from moejax.config.run import Run
from moejax.core import errors
from moejax.parallel.mesh import AXES, MeshConfig, axis_sizes, filled
from moejax.plan import count, plan, rough
from moejax.plan.topology import Slice


@dataclasses.dataclass(frozen=True)
class Candidate:
  """What is varied."""

  mesh: MeshConfig
  remat: str
  micro_batches: int
  token_chunks: int
  batch_size: int

  def of(self, run: Run) -> Run:
    """The run with these settings."""
    return dataclasses.replace(
      run,
      mesh=self.mesh,
      model=dataclasses.replace(
        run.model, remat=self.remat, token_chunks=self.token_chunks
      ),
      train=dataclasses.replace(
        run.train,
        batch_size=self.batch_size,
        micro_batches=self.micro_batches,
      ),
    )

  @property
  def family(self) -> tuple[Any, ...]:
    """What those that are much alike have in common."""
    splits = (self.mesh.expert > 1, self.mesh.model > 1)
    return self.remat, *splits, self.batch_size

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

  @property
  def seconds_per_row(self) -> float:
    """Of the estimate; steps of other batches take other times. 0 on CPU."""
    return (self.step or 0.0) / self.candidate.batch_size


def run(
  run: Run,
  where: Slice,
  limit: int,
  say: Callable[[str], None],
  batch_sizes: Sequence[int] = (),
) -> list[Row]:
  """The rows of the first `limit` candidates, the best first.

  Args:
    run: whose setting is the first.
    where: the devices.
    limit: how many to compile.
    say: takes a line of progress.
    batch_sizes: rows of a step to try; the run's alone if there are none.

  Raises:
    InputError: there is nothing to try.
  """
  found = candidates(run, where, batch_sizes)
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
      f'micro-batches={candidate.micro_batches}, '
      f'token-chunks={candidate.token_chunks}, '
      f'rows={candidate.batch_size}: {rows[-1].note}'
    )
  return sorted(rows, key=lambda row: (not row.fits, row.seconds_per_row))


def try_one(run: Run, where: Slice, candidate: Candidate) -> Row:
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


def candidates(
  run: Run, where: Slice, batch_sizes: Sequence[int] = ()
) -> list[Candidate]:
  """The config's own setting, and what may fit, the most promising first.

  Of a family (the same policy and batch, experts split or not, layers split or
  not) the second is behind the first of all others: what is next to the best
  is much like it.
  """
  best: dict[Candidate, tuple[float, Candidate]] = {}
  counted = count.count(run.model)
  for one in _all(run, len(where.devices), batch_sizes):
    sizes = axis_sizes(one.mesh)
    found = rough.of(one.of(run), sizes, where.chip, counted)
    if found.num_bytes > where.memory:
      continue
    time = found.seconds / one.batch_size
    but_for_chunks = dataclasses.replace(one, token_chunks=0)
    if but_for_chunks not in best or time < best[but_for_chunks][0]:
      best[but_for_chunks] = (time, one)
  rows: list[tuple[int, float, Candidate]] = []
  place: collections.Counter[tuple[Any, ...]] = collections.Counter()
  for time, one in sorted(best.values(), key=lambda pair: pair[0]):
    place[one.family] += 1
    rows.append((place[one.family], time, one))
  ranked = [one for *_, one in sorted(rows, key=lambda row: row[:2])]
  own = own_setting(run, len(where.devices))
  return own + [one for one in ranked if one not in own]


def own_setting(run: Run, number: int) -> list[Candidate]:
  """What the config says, if its mesh is of so many devices."""
  try:
    sizes = filled(run.mesh, number)
  except errors.InputError:
    return []
  return [
    Candidate(
      dataclasses.replace(run.mesh, **dict[str, Any](sizes)),
      run.model.remat,
      run.train.micro_batches,
      run.model.token_chunks,
      run.train.batch_size,
    )
  ]


def _all(
  run: Run, number: int, batch_sizes: Sequence[int]
) -> Iterator[Candidate]:
  sizes = batch_sizes or [run.train.batch_size]
  for mesh, batch_size in itertools.product(meshes(run, number), sizes):
    rows, rest = divmod(batch_size, mesh.data * mesh.fsdp * mesh.expert)
    if rest:
      continue
    for remat, micro in itertools.product(rough.KEPT, _divisors(rows)):
      for chunks in _divisors(rows // micro):
        yield Candidate(mesh, remat, micro, chunks, batch_size)


def meshes(run: Run, number: int) -> list[MeshConfig]:
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
