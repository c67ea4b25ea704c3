"""Measures of what a run's routers do: of an evaluation, and of its traces."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from moejax.analysis import MEASURES
from moejax.analysis.measure import Rows
from moejax.core import errors, table
from moejax.run import evaluation, measure_source

Note = Callable[[str], None]


def analyse(
  workdir: str,
  names: Sequence[str],
  overrides: Sequence[tuple[str, str]] = (),
  *,
  step: str = 'newest',
  limit: int = 0,
  note: Note = lambda _: None,
  choice: measure_source.TraceChoice | None = None,
) -> dict[str, Any]:
  """Measures the routers of a run's model.

  Args:
    workdir: of the run.
    names: names in MEASURES.
    overrides: config keys to change, as dotted paths and texts.
    step: the checkpoint, see `restore.weights`, in place of that of `choice`.
    limit: batches of each validation set for counts, and batches of the traced
      text for outputs of experts; 0 for all.
    note: is called with a line before each thing that takes long.
    choice: the traces; None for all of the workdir.

  Returns:
    `workdir`, `step` of the last checkpoint, and `measures`: the rows of each
    measure, {row: {column: value}}, by its name.

  Raises:
    InputError: a name is not in MEASURES; a checkpoint, a trace or a domain
      does not exist; or there is none to compare with.
  """
  entries = {name: table.lookup('measure', MEASURES, name) for name in names}
  counted = [name for name in names if entries[name].needs == 'counts']
  rows: dict[str, Rows] = {}
  # Traces first: whether they are there is known at once.
  source = None
  if len(counted) < len(entries):
    several = [n for n in names if entries[n].needs == 'several']
    choice = dataclasses.replace(
      choice or measure_source.TraceChoice(), step=step
    )
    source = measure_source.open_source(
      workdir, choice, several[0] if several else None
    )
    step = str(source.last_step)
  if counted:
    result = evaluation.analyse(
      workdir, counted, overrides, step=step, limit=limit, note=note
    )
    step = str(result['step'])
    rows |= result['measures']
  for name in names:
    if name not in rows and source is not None:
      rows[name] = source.rows(name, overrides, limit, note)
  return {
    'workdir': workdir,
    'step': int(step),
    'measures': {name: rows[name] for name in names},
  }


def measured(
  workdir: str,
  note: Note = lambda _: None,
  *,
  names: Sequence[str] | None = None,
  writes: bool = True,
) -> dict[str, Rows]:
  """The rows of the measures that a workdir allows without a pass, by name.

  Measures of outputs, which need a pass of the model, are there if they were
  computed before. So are measures of weights, and if rows are kept in the
  workdir they are computed for a small model (`Source.reads_weights`). A
  workdir without traces has none.

  Args:
    workdir: of the run.
    note: is called with a line before each measure that is computed.
    names: names in MEASURES; None for all.
    writes: whether rows that are computed are kept in the workdir.

  Raises:
    InputError: the traces cannot be read, or are of different runs.
  """
  try:
    source = measure_source.open_source(workdir)
  except measure_source.NoTracesError:
    return {}
  source = dataclasses.replace(source, writes=writes)
  result = {}
  for name in MEASURES if names is None else names:
    measure = MEASURES[name]
    if measure.needs in ('weights', 'outputs'):
      kept = source.kept(name)
      if kept is None and measure.needs == 'weights' and writes:
        kept = _of_weights(source, name, note)
    elif measure.needs == 'counts' or (
      measure.needs == 'several' and len(source.folder) < 2
    ):
      kept = None
    else:
      kept = source.rows(name, note=note)
    if kept is not None:
      result[name] = kept
  return result


def _of_weights(
  source: measure_source.Source, name: str, note: Note
) -> Rows | None:
  """The rows of a measure of weights, if these are there and soon read."""
  try:
    return source.rows(name, note=note) if source.reads_weights() else None
  except errors.InputError as error:
    note(f'{name} is left out: {error}')
    return None
