"""Trains the runs of a sweep on this machine."""

from moejax.core import exits
from moejax.sweep import pool
from moejax.sweep.search_work import SearchWork
from moejax.sweep.sweep import Sweep
from moejax.sweep.work import ListWork, say


def train(sweep: Sweep, processes: int, retries: int = 0) -> None:
  """Trains chosen runs that are not finished, `processes` at a time."""
  todo = sweep.todo()
  processes = min(processes, max(1, len(todo)))
  say(
    f'Sweep {sweep.name}: {len(sweep.chosen)} runs, '
    f'{len(sweep.chosen) - len(todo)} of them finished before; '
    f'{processes} at a time. All is kept in {sweep.folder}.'
  )
  work = _kind(sweep)(sweep, todo, processes, retries)
  pool.run(work, sweep.folder, processes)


def train_one(sweep: Sweep, index: int, retries: int = 0) -> int:
  """Trains the run of an index, with the whole machine.

  Args:
    sweep: the sweep.
    index: the place of the run in the list of the sweep, from 0.
    retries: how often it is started again if it fails.

  Returns:
    The exit code of its last process.

  Raises:
    InputError: there is no such index.
  """
  run = sweep.at(index)
  if sweep.is_done(run):
    say(f'{run.name}: finished before')
    return exits.DONE
  work = _kind(sweep)(sweep, [run], 1, retries)
  pool.run(work, sweep.folder, 1)
  return work.codes[run.name]


def _kind(sweep: Sweep) -> type[ListWork]:
  return ListWork if sweep.search is None else SearchWork
