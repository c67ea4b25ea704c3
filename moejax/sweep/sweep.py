"""A sweep: the configs of its runs, what is left to train, its results."""

import dataclasses
import importlib.util
import os
import pathlib
import time
from collections.abc import Mapping, Sequence

from etils import epath

from moejax import config as configs
from moejax.core import (
  columns,
  compile_cache,
  errors,
  exits,
  files,
  resume,
  table,
  terminal,
)
from moejax.run import compatibility, report, screen
from moejax.sweep import document, grid, pool
from moejax.sweep import results as results_lib
from moejax.sweep import table as table_lib
from moejax.sweep.grid import SweepRun
from moejax.sweep.results import RunResult

TABLE, PICTURE, NUMBERS = 'results.md', 'results.png', 'results.json'


class Sweep:
  """A sweep file, the configs of its runs, and its workdir.

  Attributes:
    name: name of the sweep file.
    path: path of the sweep file.
    folder: workdir, with a folder for each run.
    runs: all runs of the file.
    configs: config of each run, by its name.
  """

  def __init__(
    self, path: str, overrides: Sequence[tuple[str, str]], workdir: str
  ):
    """Reads and checks the file and all configs; trains nothing.

    Args:
      path: path of the sweep file.
      overrides: dotted paths and texts for all runs; they replace the file's.
      workdir: folder of the sweep.

    Raises:
      InputError: the sweep file or the config of a run has an error.
    """
    self.name = pathlib.Path(path).stem
    self.path = path
    self.folder = epath.Path(workdir)
    self.runs = grid.load(path)
    self._overrides = tuple(overrides)
    self.configs = {run.name: self._config(run) for run in self.runs}

  def _config(self, run: SweepRun) -> configs.Run:
    try:
      folder = os.fspath(self.folder / run.name)
      return configs.load(run.config, self.overrides(run), folder)
    except errors.InputError as e:
      raise errors.InputError(f'{self.path}: run {run.name!r}: {e}') from e

  def overrides(self, run: SweepRun) -> list[tuple[str, str]]:
    """Changes to a run's config file: the sweep's, replaced by the flags'."""
    replaced = dict(self._overrides)
    own = [(k, v) for k, v in run.all_overrides if k not in replaced]
    return [*own, *self._overrides]

  def chosen(self, only: str | None) -> list[SweepRun]:
    """The runs that are named by `--only`; all runs without it.

    Args:
      only: names of runs or groups, separated by commas; None for all runs.

    Raises:
      InputError: the list is empty, or no run and no group has a name in it.
    """
    if only is None:
      return self.runs
    known = {run.name for run in self.runs} | {run.group for run in self.runs}
    names = [name for name in only.split(',') if name]
    for name in names or [only]:
      if name not in known:
        raise table.unknown('run in --only', name, known)
    return [run for run in self.runs if {run.name, run.group} & {*names}]

  def results(self) -> dict[str, RunResult]:
    """How far every run is, by its name."""
    kept = results_lib.records(self.folder)
    return {
      run.name: results_lib.read(
        run,
        self.configs[run.name].train.steps,
        self.folder / run.name,
        kept.get(run.name, {}),
      )
      for run in self.runs
    }

  def changed(self) -> dict[str, str]:
    """By name of each run that was trained with another config, its keys."""
    different = {}
    for name, config in self.configs.items():
      folder = self.folder / name
      keys = dict(compatibility.different(config, folder))
      if report.read(folder) is not None:
        # A finished run is not trained again, so its report must be of the
        # present config.
        keys |= compatibility.stale(config, folder)
      if keys:
        different[name] = resume.listed(keys)
    return different

  def check_folders(self) -> None:
    """Raises InputError if a folder has a run of another config.

    The sweep file, a config file or flags have changed since it was trained.
    """
    changed = self.changed()
    if not changed:
      return
    name, keys = next(iter(changed.items()))
    more = f' and {len(changed) - 1} more' if len(changed) > 1 else ''
    raise errors.InputError(
      f'the sweep has changed since {self.folder} was made: run {name!r}{more} '
      f'was trained with another config: {keys}. To keep both, use another '
      f'--workdir; to train {"them" if more else "it"} anew, remove '
      f'{self.folder / name}{" and the others" if more else ""}; --list shows '
      'all'
    )

  def listing(self, chosen: Sequence[SweepRun]) -> list[str]:
    """A line for each run, with its state and flags, and a line of totals."""
    results, changed = self.results(), self.changed()
    rows, finished = [], 0
    for run in chosen:
      result = results[run.name]
      state = ' '.join(filter(None, (result.status, result.note)))
      if run.name in changed:
        state = f'another config: {changed[run.name]}'
      else:
        finished += result.status == results_lib.FINISHED
      flags = ' '.join(f'{k}={v}' for k, v in self.overrides(run))
      rows.append([run.name, state, f'{run.config} {flags}'])
    total = f'{finished} of {len(chosen)} finished, in {self.folder}'
    return [*columns.aligned(rows, left=(0, 1, 2)), total]

  def setting(self) -> str:
    """Sentences on the length of training and of evaluation, if all agree."""
    runs = self.configs.values()
    sizes = {
      (run.train.steps, run.train.batch_size * run.data.sequence_length)
      for run in runs
    }
    limits = {run.report.eval_batches for run in runs}
    sentences = []
    if len(sizes) == 1:
      ((steps, tokens),) = sizes
      sentences.append(
        f'Each trained for {steps:,} steps of {tokens:,} tokens.'
      )
    if len(limits) == 1 and limits != {0}:
      (limit,) = limits
      batches = 'batch' if limit == 1 else f'{limit} batches'
      sentences.append(
        f'Measured on the first {batches} of each validation set.'
      )
    return ' '.join(sentences)


def train(sweep: Sweep, chosen: Sequence[SweepRun], processes: int) -> None:
  """Trains the chosen runs that are not finished, and prints the progress.

  Args:
    sweep: the sweep.
    chosen: runs of it.
    processes: number of runs that train at a time.
  """
  results = sweep.results()
  todo = [run for run in chosen if not _is_done(sweep, results[run.name])]
  processes = min(processes, max(1, len(todo)))
  terminal.say(
    f'Sweep {sweep.name}: {len(chosen)} runs, '
    f'{len(chosen) - len(todo)} of them finished before; '
    f'{processes} at a time. All is kept in {sweep.folder}.'
  )
  done, begin = 0, time.monotonic()

  def ended(job: pool.QueuedRun, outcome: pool.Outcome) -> None:
    nonlocal done
    results_lib.record(sweep.folder, job.name, outcome, processes)
    took = screen.duration(outcome.seconds)
    if outcome.code == exits.INTERRUPTED:
      _say(f'{job.name}: interrupted after {took}')
      return
    done += 1
    end = (
      f'failed: {outcome.message}' if outcome.code else f'finished in {took}'
    )
    left = (time.monotonic() - begin) / done * (len(todo) - done)
    _say(
      f'{job.name}: {end}; {done} of {len(todo)} done, about '
      f'{screen.duration(left)} left'
    )

  pool.run(
    [
      pool.QueuedRun(
        run.name,
        run.config,
        sweep.overrides(run),
        os.fspath(sweep.folder / run.name),
      )
      for run in todo
    ],
    processes,
    environment(sweep.folder),
    lambda job: _say(f'{job.name}: started'),
    ended,
  )


def _is_done(sweep: Sweep, result: RunResult) -> bool:
  """Whether a run has a report that was made with its present config."""
  folder = os.fspath(sweep.folder / result.name)
  return (
    result.status == results_lib.FINISHED
    and sweep.configs[result.name].report == configs.of_workdir(folder).report
  )


def environment(folder: epath.Path) -> Mapping[str, str]:
  """Environment of the runs' processes, with one folder of compiled programs.

  Runs of the same shapes then share their compiled programs.
  """
  return {
    **compile_cache.environment(folder / compile_cache.FOLDER),
    **os.environ,
    'PYTHONUNBUFFERED': '1',  # log.txt is read while it is written
  }


def _say(line: str) -> None:
  with terminal.outlived():  # a closed terminal must not stop the runs
    terminal.say(line)


def write_results(sweep: Sweep, out: pathlib.Path | None) -> str:
  """Writes the table, its numbers and a picture; returns the table as text.

  Args:
    sweep: the sweep.
    out: a Markdown document that gets table and picture too.
  """
  results = [*sweep.results().values()]
  rows, score = table_lib.rows(results), table_lib.measure(results)
  text = (
    f'{table_lib.markdown(rows, score)}\n'
    f'{table_lib.caption(results, sweep.setting())}'
  )
  files.atomic_write_json(
    sweep.folder / NUMBERS,
    {
      'sweep': sweep.path,
      'rows': [dataclasses.asdict(row) for row in rows],
      'runs': [dataclasses.asdict(result) for result in results],
    },
  )
  files.atomic_write_text(sweep.folder / TABLE, text)
  plotted = importlib.util.find_spec('matplotlib') is not None
  if plotted:
    table_lib.plot(rows, score, pathlib.Path(sweep.folder / PICTURE))
  if out:
    image = ''
    if plotted:
      table_lib.plot(rows, score, out.with_name(f'{sweep.name}.png'))
      image = f'\n![{sweep.name}]({sweep.name}.png)\n'
    document.put(out, sweep.name, text + image)
  if not plotted:
    text += "No picture: matplotlib is missing; pip install 'moejax[plot]'.\n"
  return text


def check_finished(sweep: Sweep, chosen: Sequence[SweepRun]) -> None:
  """Raises StoppedError if a chosen run is not finished."""
  results = sweep.results()
  failed = [
    run.name
    for run in chosen
    if results[run.name].status != results_lib.FINISHED
  ]
  if failed:
    raise errors.StoppedError(
      f'{len(failed)} of {len(chosen)} runs failed: {", ".join(failed)}; why '
      f'is in the table and in each log.txt in {sweep.folder}; the same '
      'command tries them again'
    )
