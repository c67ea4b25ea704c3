"""Trains the stages of a config file in turn, each from earlier ones.

  WORKDIR/<stage>/         the run of a stage, as moejax.main makes it
  WORKDIR/starts/<stage>/  the weights that a stage begins with, where they are
                           not those of one earlier stage
  WORKDIR/results.json     scores of all stages by validation set

A stage with a report is finished. So the command goes on after a kill with the
stage that was at work, whose own checkpoints say where.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from moejax.config import Run
from moejax.config import stages as stages_lib
from moejax.config.stages import Stage
from moejax.core import columns, files, terminal
from moejax.parallel import mesh as meshes
from moejax.run import compatibility, report, restore, stage_starts, train
from moejax.run.processes import Processes

RESULTS, STARTS = 'results.json', 'starts'
# By key of a report's rows, the title of a table.
TITLES = {
  'exact': 'Exact answers of each stage, by validation set',
  'loss': 'Loss of each stage in nats per token, by validation set',
}
MOST_FREQUENT = 'most_frequent'


class Stages:
  """The stages of a config file and their runs.

  Attributes:
    folder: the workdir of all.
    runs: the config of each stage by name, in their order.
  """

  def __init__(
    self, spec: str, overrides: Sequence[tuple[str, str]], workdir: str
  ):
    """Reads and checks the configs of all stages; trains nothing.

    Args:
      spec: path[:arg] of a config file with STAGES.
      overrides: config keys to change in all stages.
      workdir: the folder for all.

    Raises:
      InputError: a config, or the list of stages, has an error.
    """
    self.folder = epath.Path(workdir)
    self._stages = stages_lib.read(spec)
    self.runs = {
      stage.name: dataclasses.replace(run, start=start)
      for stage in self._stages
      for run in [stages_lib.load(spec, stage, overrides, workdir)]
      for start in [self._start(stage, run)]
    }

  def train(self, processes: Processes) -> None:
    """Trains all stages that are not finished; errors as of `train.train`."""
    files.check_writable(self.folder)
    group, total = processes.group, len(self._stages)
    for number, stage in enumerate(self._stages, 1):
      folder = self.folder / stage.name
      run, label = self.runs[stage.name], f'Stage {number} of {total}'
      if group.broadcast('stage', functools.partial(_is_done, run, folder)):
        _say(processes, f'{label}, {stage.name}: finished before.')
        continue
      _say(processes, f'{label}, {stage.name}:')
      make = functools.partial(self._make_start, stage)
      group.main_first(f'start of {stage.name}', make)
      train.train(run, os.fspath(folder), processes=processes)
      _say(processes, '')

  def _start(self, stage: Stage, run: Run) -> str:
    """`start` of the run of a stage."""
    if not stage.sources:
      return run.start
    if [*stage.starts.values()] == ['*']:
      return os.fspath(self.folder / stage.sources[0])
    return os.fspath(self.folder / STARTS / stage.name)

  def _make_start(self, stage: Stage) -> None:
    """Makes the workdir that a stage begins with, if it needs one."""
    begun = (self.folder / stage.name / 'checkpoints').exists()
    if begun or not stage.sources or [*stage.starts.values()] == ['*']:
      return
    run, to = self.runs[stage.name], self.folder / STARTS / stage.name
    if _is_older(to, [self.folder / name for name in stage.sources]):
      to.rmtree()  # its sources were trained anew
    if stage.upcycles:
      source = os.fspath(self.folder / stage.upcycles)
      stage_starts.upcycle(run, source, to, terminal.say)
      return
    sources = {
      os.fspath(self.folder / name): paths
      for name, paths in stage.starts.items()
    }
    stage_starts.join(run, sources, to, terminal.say)

  def results(self) -> dict[str, dict[str, Any]]:
    """Scores of each finished stage by validation set; stages in order."""
    reports = {name: report.read(self.folder / name) for name in self.runs}
    return {
      name: kept['domains']
      for name, kept in reports.items()
      if kept is not None
    }

  def write_results(self) -> list[str]:
    """Writes the scores of all stages; returns lines of a table of them."""
    results = self.results()
    files.atomic_write_json(self.folder / RESULTS, results)
    return table(results)


def _is_older(start: epath.Path, sources: Sequence[epath.Path]) -> bool:
  """Whether a start was made before one of its sources was finished."""
  made = start / restore.CONFIG
  if not made.exists():
    return False
  ends = [source / report.REPORT for source in sources]
  return any(
    end.exists() and made.stat().mtime < end.stat().mtime for end in ends
  )


def _is_done(run: Run, folder: epath.Path) -> bool:
  """Whether a stage is finished under its present config."""
  if report.read(folder) is None:
    return False
  run = train.with_dtype(run, folder, meshes.make(run.mesh), train.ALONE)
  compatibility.check_workdir(run, folder)
  return compatibility.finished(run, folder, terminal.say)


def _say(processes: Processes, line: str) -> None:
  if processes.main:
    terminal.say(line)


def table(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
  """Lines of a table: validation sets as rows, stages as columns.

  It has exact answers, if there are conversations, and losses otherwise. Only
  sets of the last stage are rows, and stages without any of them are left out.

  Args:
    results: rows of the reports, by stage and validation set.
  """
  *_, last = results.values()
  talk = any('exact' in row for row in last.values())
  key = 'exact' if talk else 'loss'
  names = [name for name, rows in results.items() if {*rows} & {*last}]
  lines = [['', *([MOST_FREQUENT.replace('_', ' ')] if talk else []), *names]]
  shown = {
    domain: ([row.get(MOST_FREQUENT)] if talk else [])
    + [results[name].get(domain, {}).get(key) for name in names]
    for domain, row in last.items()
  }
  means = [_mean(column) for column in zip(*shown.values(), strict=True)]
  for domain, values in {**shown, 'mean': means}.items():
    cells = ['-' if x is None else _cell(x, talk) for x in values]
    lines.append([domain, *cells])
  return [TITLES[key], *columns.aligned(lines)]


def _cell(value: float, is_share: bool) -> str:
  return f'{value:.1%}' if is_share else f'{value:.3f}'


def _mean(values: Sequence[float | None]) -> float | None:
  """The mean; None if a value is missing."""
  known = [value for value in values if value is not None]
  return sum(known) / len(known) if len(known) == len(values) else None


def read_results(folder: epath.Path) -> dict[str, dict[str, Any]]:
  """What `write_results` wrote."""
  return json.loads((folder / RESULTS).read_text())
