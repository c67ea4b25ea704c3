"""A sweep: the configs of its runs, what is left to train, its results."""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence

from etils import epath

from moejax import config as configs
from moejax.core import columns, errors, resume, table
from moejax.run import compatibility, report
from moejax.sweep import pool, results, sweep_file, trials
from moejax.sweep.grid import SweepRun
from moejax.sweep.searches import Search


class Sweep:
  """A sweep file, the configs of its runs, and its workdir.

  Attributes:
    name: name of the sweep file.
    path: its path.
    folder: the workdir, with a folder for each run.
    runs: all runs of the file, with the flags among their overrides.
    chosen: those of them that `--only` names.
    configs: config of each run, by its name.
    search: what is searched; None for a list of runs.
  """

  def __init__(
    self,
    path: str,
    overrides: Sequence[tuple[str, str]],
    workdir: str,
    only: str | None = None,
  ):
    """Reads and checks the file and all configs; trains nothing.

    Args:
      path: path of the sweep file.
      overrides: dotted paths and texts for all runs; they replace the file's.
      workdir: folder for the runs and the results.
      only: names of runs or groups, separated by commas; None for all runs.

    Raises:
      InputError: the sweep file, the config of a run, or `only` has an error.
    """
    self.name, self.path = pathlib.Path(path).stem, path
    self.folder, self._flags = epath.Path(workdir), tuple(overrides)
    self.configs: dict[str, configs.Run] = {}
    loaded = sweep_file.load(path)
    self.search = loaded if isinstance(loaded, Search) else None
    if isinstance(loaded, Search):
      self.runs = self._begun(loaded)
    else:
      self.runs = [self._with_config(run) for run in loaded]
    known = {name for run in self.runs for name in (run.name, run.group)}
    names = known
    if only is not None:
      names = {name for name in only.split(',') if name} or {only}
    for name in sorted(names - known):
      raise table.unknown('run in --only', name, known)
    self.chosen = [run for run in self.runs if {run.name, run.group} & names]

  def _begun(self, search: Search) -> list[SweepRun]:
    """The runs of a search, with the values of those that have begun."""
    search.check(self._flags)
    trials.check(self.folder)
    begun = (self.folder / trials.JOURNAL).exists()
    known = self.journal.values if begun else lambda _: None
    runs = []
    for i in range(search.num):
      run = self._with_config(search.run(i, {}))
      if values := known(i):
        run = self._with_flags(search.run(i, values))
        # Values that make no config together are those of a failed run, whose
        # config here stays that without them.
        with contextlib.suppress(errors.InputError):
          self._with_config(run)
      runs.append(run)
    return runs

  def _with_flags(self, run: SweepRun) -> SweepRun:
    """The run with the flags of the command among its overrides."""
    return dataclasses.replace(
      run, overrides={**run.overrides, **dict(self._flags)}
    )

  def _with_config(self, run: SweepRun) -> SweepRun:
    """The run with the flags of the command; keeps its config.

    Raises:
      InputError: it has none.
    """
    run = self._with_flags(run)
    # Not as one dictionary: a flag that is given twice may contradict itself.
    keys = {key for key, _ in self._flags}
    own = [(k, v) for k, v in run.overrides.items() if k not in keys]
    folder = os.fspath(self.folder / run.name)
    try:
      self.configs[run.name] = configs.load(
        run.config, [*own, *self._flags], folder
      )
    except errors.InputError as e:
      place = run.place(str(e)) or self.path
      raise errors.InputError(f'{place}: run {run.name!r}: {e}') from e
    return run

  @functools.cached_property
  def journal(self) -> trials.Trials:
    """The trials of a search, whose journal is made if it is not there."""
    if self.search is None:
      raise ValueError('a list of runs has no trials')
    return trials.Trials(self.folder, self.search)

  def with_values(self, run: SweepRun, values: Mapping[str, str]) -> SweepRun:
    """A run of a search with the values that were chosen for it.

    Raises:
      InputError: together they make no config.
    """
    if self.search is None:
      raise ValueError('a list of runs has its values')
    index = self.index(run)
    changed = self._with_flags(self.search.run(index, values))
    self.chosen = [changed if r.name == run.name else r for r in self.chosen]
    self.runs[index] = changed
    return self._with_config(changed)

  def index(self, run: SweepRun) -> int:
    """The place of a run in the list of the sweep, from 0."""
    return [r.name for r in self.runs].index(run.name)

  def result(self, run: SweepRun) -> results.Result:
    """The result of a run so far."""
    return results.read(run, self.configs[run.name], self.folder)

  def changed(self) -> dict[str, str]:
    """By name of each run that was trained with another config, its keys."""
    changed = {}
    for name, config in self.configs.items():
      folder = self.folder / name
      keys = compatibility.different(config, folder)
      if report.read(folder) is not None:
        # A finished run is not trained again, so its report must be of the
        # present config.
        keys = keys | compatibility.stale(config, folder)
      if keys:
        changed[name] = resume.listed(keys)
    return changed

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

  def listing(self) -> list[str]:
    """A line with state and flags of each chosen run, and a line of totals."""
    rows, finished, changed = [], 0, self.changed()
    for run in self.chosen:
      result = self.result(run)
      state = f'{result["status"]} {result["note"]}'.strip()
      if run.name in changed:
        state = f'another config: {changed[run.name]}'
      elif self.is_done(run):
        finished += 1
      elif result['status'] == results.FINISHED:
        state = 'trained; its report is made anew'
      flags = [f'{key}={text}' for key, text in run.overrides.items()]
      rows.append([run.name, state, ' '.join([run.config, *flags])])
    total = f'{finished} of {len(rows)} finished, in {self.folder}'
    return [*columns.aligned(rows, left=(0, 1, 2)), total]

  def is_done(self, run: SweepRun) -> bool:
    """Whether a run is pruned, or has the report that its config asks for."""
    config, folder = self.configs[run.name], self.folder / run.name
    status = self.result(run)['status']
    if status == results.PRUNED:
      return True
    return status == results.FINISHED and compatibility.finished(
      config, folder, lambda _: None
    )

  def todo(self) -> list[SweepRun]:
    """The chosen runs that are not finished."""
    return [run for run in self.chosen if not self.is_done(run)]

  def at(self, index: int) -> SweepRun:
    """The run at a place of the sweep's list, from 0.

    Raises:
      InputError: there is no such place.
    """
    if index >= len(self.runs):
      raise errors.InputError(
        f'--index={index}: the sweep has {len(self.runs)} runs, 0 to '
        f'{len(self.runs) - 1}'
      )
    return self.runs[index]

  def log(self, run: SweepRun) -> str:
    """The path of what a run has printed."""
    return os.fspath(self.folder / run.name / pool.LOG)

  def check_finished(self) -> None:
    """Raises StoppedError if a chosen run is not finished."""
    failed = [
      run.name
      for run in self.chosen
      if self.result(run)['status'] not in {results.FINISHED, results.PRUNED}
    ]
    if failed:
      raise errors.StoppedError(
        f'{len(failed)} of {len(self.chosen)} runs failed: '
        f'{", ".join(failed)}; why is in the table and in each log.txt in '
        f'{self.folder}; the same command tries them again'
      )
