"""RUNNERS: where the runs of a sweep are trained, by the runner's name."""

import dataclasses
import os
import shlex
from collections.abc import Callable, Mapping, Sequence

from moejax.core import errors
from moejax.sweep import local, slurm, xpk
from moejax.sweep.grid import SweepRun
from moejax.sweep.sweep import Sweep
from moejax.sweep.work import say


@dataclasses.dataclass(frozen=True)
class Options:
  """What the flags of the command say of runners.

  Attributes:
    words: the flags that name the sweep, its workdir and its overrides.
    processes: runs at a time.
    retries: how often a run that fails is started again.
    sbatch: the user's own options of sbatch.
    dry_run: whether commands are shown alone.
  """

  words: Sequence[str] = ()
  processes: int = 1
  retries: int = 0
  sbatch: str = ''
  dry_run: bool = False


@dataclasses.dataclass(frozen=True)
class Runner:
  """A place where runs are trained.

  Attributes:
    start: trains the chosen runs that are not finished, or hands them over.
    waits: whether the runs are at their end when `start` returns.
    takes: the attributes of Options that it uses, beside `words`.
  """

  start: Callable[[Sweep, Options], None]
  waits: bool
  takes: frozenset[str]


def _local(sweep: Sweep, options: Options) -> None:
  local.train(sweep, options.processes, options.retries)


def _slurm(sweep: Sweep, options: Options) -> None:
  todo = _todo(sweep)
  folder = os.fspath(sweep.folder)
  if '://' in folder:
    raise errors.InputError(
      f'--runner=slurm with --workdir={folder}: batch scripts and their logs '
      'need a folder on a disk that all nodes see'
    )
  text = slurm.script(
    sweep.name,
    folder,
    [*options.words, f'--retry={options.retries}'],
    list(todo),
    options.processes,
    options.sbatch,
  )
  if options.dry_run:
    say(text.rstrip())
    return
  sweep.folder.mkdir(parents=True, exist_ok=True)
  job = slurm.submit(text, folder)
  say(
    f'Submitted {len(todo)} runs as job {job}, {options.processes} at a time. '
    f'Do not submit them again before it has ended (squeue --job={job}).'
  )
  say(_then(options))


def _xpk(sweep: Sweep, options: Options) -> None:
  if sweep.search is not None:
    raise errors.InputError(
      f'--runner=xpk takes a list of runs, and {sweep.name} is a search, which '
      'chooses values while runs train: use --runner=slurm, or sweep.sample'
    )
  todo = _todo(sweep)
  folder = os.fspath(sweep.folder)
  shown = xpk.start(sweep.name, folder, todo, options.dry_run)
  say(shown.rstrip())
  if not options.dry_run:
    say(_then(options))


def _todo(sweep: Sweep) -> Mapping[int, SweepRun]:
  """The runs to be trained, by their index in the list of the sweep."""
  todo = {run.name for run in sweep.todo()}
  if not todo:
    raise errors.InputError(
      f'all chosen runs are finished in {sweep.folder}; --table makes their '
      'table'
    )
  return {i: run for i, run in enumerate(sweep.runs) if run.name in todo}


def _then(options: Options) -> str:
  words = shlex.join(['moejax', 'sweep', *options.words])
  return f'Their table, at any time: {words} --table'


RUNNERS: Mapping[str, Runner] = {
  'local': Runner(_local, True, frozenset({'processes', 'retries'})),
  'slurm': Runner(
    _slurm, False, frozenset({'processes', 'retries', 'sbatch', 'dry_run'})
  ),
  'xpk': Runner(_xpk, False, frozenset({'dry_run'})),
}
