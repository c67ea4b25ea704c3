"""Gathers what workdirs hold, and writes the page that shows it.

`gather` reads one workdir, `make` makes the page, `write` writes the file. Rows
of measures that are missing are computed; `write` keeps them in the workdir.
"""

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from moejax import page as pages
from moejax.core import errors, files, log
from moejax.page.data import PageData
from moejax.page.document import Page
from moejax.run import page_traces, report, resources, restore
from moejax.train import goodput

VERSIONS, PLAN = 'versions.json', 'plan.json'
INTERVENTIONS = 'interventions'
Say = Callable[[str], None]


def _quiet(line: str) -> None:
  """Shows nothing."""
  del line


def write(
  workdirs: Sequence[str],
  out: str | None = None,
  note: Say = _quiet,
  first: Sequence[pages.Part] = (),
) -> epath.Path:
  """Writes the page of one run, or that of several.

  Args:
    workdirs: folders of the runs.
    out: the file; None for `report.html` in the workdir of a single run.
    note: is called with a line before what takes long.
    first: further sections of a page of several runs.

  Returns:
    The path of the file.

  Raises:
    InputError: a folder is not a workdir, or its files cannot be read.
  """
  path = (
    epath.Path(workdirs[0]) / report.PAGE if out is None else epath.Path(out)
  )
  made = make(workdirs, note, writes=True, first=first)
  files.atomic_write_text(path, made.html)
  return path


def write_or_say(
  workdirs: Sequence[str],
  out: epath.PathLike,
  say: Say,
  first: Sequence[pages.Part] = (),
) -> None:
  """Writes a page; if that fails, says why: what was trained stays."""
  try:
    write(workdirs, os.fspath(out), first=first)
  except (errors.InputError, OSError) as error:
    say(f'The page could not be written: {error}')


def make(
  workdirs: Sequence[str],
  note: Say = _quiet,
  *,
  writes: bool = False,
  first: Sequence[pages.Part] = (),
) -> Page:
  """The page of one run, or that of several.

  Args:
    workdirs: folders of the runs.
    note: is called with a line before what takes long.
    writes: whether rows of measures that are computed are kept in the workdirs.
    first: as of `write`.

  Raises:
    InputError: as `write`.
  """
  # A comparison needs fewer measures, and many runs would take long.
  needed = pages.COMPARED_MEASURES if len(workdirs) > 1 else None
  runs = [
    gather(workdir, name, note, measures=needed, writes=writes)
    for workdir, name in zip(workdirs, names(workdirs), strict=True)
  ]
  if len(runs) == 1:
    return pages.page(runs[0])
  return pages.comparison(runs, first=first)


def names(workdirs: Sequence[str]) -> list[str]:
  """What the runs are called: the ends of their paths that differ.

  Example: ['a/runs/x', 'b/runs/x'] are 'a/runs/x' and 'b/runs/x', ['runs/x',
  'runs/y'] are 'x' and 'y'.
  """
  parts = [epath.Path(os.path.abspath(w)).parts for w in workdirs]
  for length in range(1, max(map(len, parts)) + 1):
    ends = ['/'.join(path[-length:]) for path in parts]
    if len(set(ends)) == len(ends):
      return ends
  return ends


def gather(
  workdir: str,
  name: str | None = None,
  note: Say = _quiet,
  *,
  measures: tuple[str, ...] | None = None,
  writes: bool = False,
) -> PageData:
  """What a workdir holds.

  Args:
    workdir: folder of the run, which may be unfinished.
    name: what the run is called; None for the name of the folder.
    note: is called with a line before what takes long.
    measures: names of the measures that are needed; None for all, and the
      tokens of a trace with them.
    writes: as of `make`.

  Raises:
    InputError: the folder is not a workdir, or one of its files is damaged.
  """
  folder = epath.Path(workdir)
  _check(folder)
  metrics = folder / resources.METRICS
  return PageData(
    name=name or names([workdir])[0],
    config=_json(folder / restore.CONFIG),
    versions=_json(folder / VERSIONS),
    metrics=log.read(metrics) if metrics.exists() else (),
    report=_json(folder / report.REPORT),
    goodput=_json(folder / goodput.FILE),
    plan=_json(folder / PLAN),
    interventions=_interventions(folder),
    **page_traces.read(folder, note, names=measures, writes=writes),
  )


def _check(folder: epath.Path) -> None:
  """Raises InputError if a folder has nothing of a run."""
  if not folder.is_dir():
    raise errors.InputError(f'--workdir={folder}: there is no such folder')
  known = (restore.CONFIG, resources.METRICS, report.REPORT, VERSIONS)
  if not any((folder / name).exists() for name in known):
    raise errors.InputError(
      f'--workdir={folder} is not the folder of a run: it has none of '
      f'{", ".join(known)}'
    )


def _json(path: epath.Path) -> Any:
  """The value of a JSON file; None if there is no such file."""
  if not path.exists():
    return None
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise errors.InputError(f'{path} is not JSON: {error}') from None


def _interventions(folder: epath.Path) -> dict[str, Any]:
  """The results of interventions by their names."""
  place = folder / INTERVENTIONS
  if not place.is_dir():
    return {}
  results = sorted(place.glob('*.json'), key=os.fspath)
  return {path.stem: _json(path) for path in results}
