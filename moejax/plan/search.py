"""Searches settings of a run for the fastest step, by compiling alone.

A candidate is a mesh, a remat policy, a number of micro-batches and of token
chunks, and a batch size. Stages:

1. List all combinations that the sizes allow.
2. Estimate each by arithmetic (`rough`). Drop those that need too much memory;
   of those that differ only in `token_chunks`, keep the fastest; sort the rest.
   The config's own setting comes first in any case.
3. Compile the first few, and sort them by the estimate in turn. The note of a
   candidate that does not compile, or does not fit, says why.
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from moejax.config.run import Run
from moejax.core import errors
from moejax.parallel.mesh import AXES, MeshConfig, axis_sizes, filled
from moejax.plan import count, plan, rough
from moejax.plan.topology import Slice


@dataclasses.dataclass(frozen=True)
class Candidate:
  """One setting of the keys that a search varies."""

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
    """The settings that candidates of about the same cost share."""
    splits = (self.mesh.expert > 1, self.mesh.model > 1)
    return self.remat, *splits, self.batch_size

  @property
  def mesh_text(self) -> str:
    """The axes of the mesh with more than one device: 'fsdp=32 expert=4'."""
    sizes = ((axis, getattr(self.mesh, axis)) for axis in AXES)
    return ' '.join(f'{k}={v}' for k, v in sizes if v > 1) or 'one device'


@dataclasses.dataclass(frozen=True)
class Trial:
  """A candidate that was compiled, or could not be.

  Attributes:
    candidate: the setting.
    fits: whether it compiled and fits into the memory of a device.
    total: bytes on a device; None if it could not be lowered.
    step: seconds of a step by the estimate in turn; None on CPU.
    utilisation: share of the chips' peak that model FLOPs reach in that time.
    seconds: seconds to lower and compile it here.
    note: why it does not fit, or what bounds its step.
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
    """Seconds of a step over its rows, to compare batch sizes; 0 on CPU."""
    return (self.step or 0.0) / self.candidate.batch_size


def run(
  run: Run,
  where: Slice,
  limit: int,
  say: Callable[[str], None],
  batch_sizes: Sequence[int] = (),
) -> list[Trial]:
  """Compiles the first `limit` candidates; returns them, the best first.

  Args:
    run: the config, whose own setting is tried first.
    where: the devices.
    limit: number of candidates to compile.
    say: prints a line of progress.
    batch_sizes: rows of a step to try; those of the config by default.

  Raises:
    InputError: there is nothing to try.
  """
  untried = candidates(run, where, batch_sizes)
  if not untried:
    raise errors.InputError(
      f'no mesh of {len(where.devices)} devices fits the sizes and the memory; '
      'take more chips'
    )
  num = len(untried)
  say(f'{num} combinations may fit; compiling {min(limit, num)}.')
  trials = []
  for candidate in untried[:limit]:
    trials.append(try_one(run, where, candidate))
    say(
      f'  {candidate.mesh_text}, remat={candidate.remat}, '
      f'micro-batches={candidate.micro_batches}, '
      f'token-chunks={candidate.token_chunks}, '
      f'rows={candidate.batch_size}: {trials[-1].note}'
    )
  return sorted(trials, key=lambda t: (not t.fits, t.seconds_per_row))


def try_one(run: Run, where: Slice, candidate: Candidate) -> Trial:
  """Compiles a candidate; an error becomes its note."""
  try:
    planned = plan.make(candidate.of(run), where)
  except Exception as e:  # noqa: BLE001 (one must not end the search)
    return Trial(candidate, False, note=' '.join(str(e).split())[:160])
  seconds = sum(planned.seconds.values())
  total = planned.memory.total
  if not planned.fits:
    why = planned.memory.refusal or 'too large'
    return Trial(candidate, False, total, seconds=seconds, note=why)
  step = used = None
  note = 'fits'
  if planned.times is not None:
    step = planned.times.in_turn
    budget = planned.estimates()[planned.times.name]
    used = budget['model_flops_utilisation']
    note = f'fits; roofline bound by {planned.times.bound}'
  return Trial(candidate, True, total, step, used, seconds, note)


def candidates(
  run: Run, where: Slice, batch_sizes: Sequence[int] = ()
) -> list[Candidate]:
  """The config's own setting, then others that may fit, the fastest first.

  Speed is that of `rough`. Candidates that share a policy, a batch size, and
  whether experts and layers are split, form a family. The second of a family
  comes after the first of every other family, because candidates of one family
  cost about the same.
  """
  best: dict[Candidate, tuple[float, Candidate]] = {}
  counted = count.count(run.model)
  for candidate in _all(run, len(where.devices), batch_sizes):
    sizes = axis_sizes(candidate.mesh)
    estimate = rough.of(candidate.of(run), sizes, where.chip, counted)
    if estimate.num_bytes > where.memory:
      continue
    time = estimate.seconds / candidate.batch_size
    without_chunks = dataclasses.replace(candidate, token_chunks=0)
    if without_chunks not in best or time < best[without_chunks][0]:
      best[without_chunks] = (time, candidate)
  keyed: list[tuple[int, float, Candidate]] = []
  rank: collections.Counter[tuple[Any, ...]] = collections.Counter()
  for time, candidate in sorted(best.values(), key=lambda pair: pair[0]):
    rank[candidate.family] += 1
    keyed.append((rank[candidate.family], time, candidate))
  ranked = [
    candidate for *_, candidate in sorted(keyed, key=lambda row: row[:2])
  ]
  own = own_setting(run, len(where.devices))
  return own + [candidate for candidate in ranked if candidate not in own]


def own_setting(run: Run, number: int) -> list[Candidate]:
  """The config's own setting, in a list; empty if its mesh is of another size.

  Args:
    run: the config.
    number: number of devices.
  """
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
    rows, rest = divmod(
      batch_size, mesh.data * abs(mesh.stage) * mesh.fsdp * mesh.expert
    )
    if rest:
      continue
    for remat, micro in itertools.product(rough.KEPT, _divisors(rows)):
      for chunks in _divisors(rows // micro):
        yield Candidate(mesh, remat, micro, chunks, batch_size)


def meshes(run: Run, number: int) -> list[MeshConfig]:
  """All meshes of `number` devices over which weights and experts divide.

  They have the config's own `context` axis, which depends on the rows alone,
  and its own `stage` axis.
  """
  model, choices = run.model, []
  number, rest = divmod(number, abs(run.mesh.context * run.mesh.stage))
  if rest:
    return []
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
    choices += [
      dataclasses.replace(
        run.mesh, data=rest // fsdp, fsdp=fsdp, expert=expert, model=split
      )
      for fsdp in _divisors(rest)
      if model.width % fsdp == 0
    ]
  return choices


def sizes_of(text: str) -> list[int]:
  """Numbers of rows: '2304,4608' -> [2304, 4608], '' -> []."""
  if not re.fullmatch(r'|[1-9]\d*(,[1-9]\d*)*', text):
    raise errors.InputError(
      f'--batch_sizes={text} must be numbers of rows: 2304,4608, say'
    )
  return [int(number) for number in text.split(',') if number]


def remedy(planned: plan.Plan) -> str:
  """By how much a plan does not fit, and what would fit by arithmetic.

  Returns:
    The end of a sentence.
  """
  where = planned.where
  over = ''
  if not planned.memory.refusal:
    gib = (planned.memory.total - planned.memory.limit) / 2**30
    over = f', by {gib:.1f} GiB a device'
  own = own_setting(planned.run, len(where.devices))
  others = [c for c in candidates(planned.run, where) if c not in own]
  if not others:
    return f'{over}; take more devices'
  first = others[0]
  return (
    f'{over}; by arithmetic it would fit with {first.mesh_text}, '
    f'model.remat={first.remat}, train.micro_batches={first.micro_batches} and '
    f'model.token_chunks={first.token_chunks}: compile that, or --search'
  )


def to_json(trials: Sequence[Trial]) -> dict[str, Any]:
  """The trials as JSON values."""
  return {
    'sources': plan.SOURCES,
    'rows': [
      {
        **dataclasses.asdict(trial),
        'mesh': {axis: getattr(trial.candidate.mesh, axis) for axis in AXES},
      }
      for trial in trials
    ],
  }


def _divisors(number: int) -> list[int]:
  return [n for n in range(1, number + 1) if number % n == 0]
