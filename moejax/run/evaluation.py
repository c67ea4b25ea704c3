"""Evaluations of a run's model, and measures of its routers."""

from collections.abc import Callable, Sequence
from typing import Any

from moejax.analysis import MEASURES
from moejax.analysis.measure import SOURCES
from moejax.analysis.statistics import RoutingStatistics
from moejax.core import errors, table
from moejax.data import build as data_build
from moejax.evals import EVALS
from moejax.evals.subject import Subject
from moejax.model import rounded
from moejax.run import data_progress, trained

Say = Callable[[str], None]
# Prefixes of the config keys that change an evaluation.
USED = ('model.', 'mesh.', 'data.')


def evaluate(
  workdir: str,
  names: Sequence[str],
  overrides: Sequence[tuple[str, str]],
  *,
  step: str,
  limit: int,
  note: Say,
  weights: str = rounded.FULL,
) -> dict[str, Any]:
  """Evaluates the model of a run.

  Args:
    workdir: of the run.
    names: names in EVALS.
    overrides: config keys to change, as dotted paths and texts.
    step: which checkpoint, see `restore.weights`.
    limit: batches of each validation set; 0 for all.
    note: is called with a line before each thing that takes long.
    weights: see `trained.open_trained`.

  Returns:
    `workdir`, `step` of the checkpoint, and `evals`: the rows of each
    evaluation, {row: {name: value}}, by its name.

  Raises:
    InputError: a name is not in EVALS, the checkpoint does not exist, or the
      text cannot be used.
  """
  entries = {name: table.lookup('evaluation', EVALS, name) for name in names}
  subject, at = _subject(workdir, overrides, step, limit, note, weights)
  rows = {name: evaluation(subject) for name, evaluation in entries.items()}
  return {'workdir': workdir, 'step': at, 'evals': rows}


def analyse(
  workdir: str,
  names: Sequence[str],
  overrides: Sequence[tuple[str, str]],
  *,
  step: str,
  limit: int,
  note: Say,
) -> dict[str, Any]:
  """Measures the routers of a run's model on its validation sets.

  Arguments and errors are those of `evaluate`, with names in MEASURES.

  Returns:
    `workdir`, `step` of the checkpoint, and `measures`: the rows of each
    measure, {row: {name: value}}, by its name.

  Raises:
    InputError: as `evaluate`, or the model has no experts.
  """
  entries = {name: table.lookup('measure', MEASURES, name) for name in names}
  for name, measure in entries.items():
    if measure.needs != 'counts':
      raise errors.InputError(f'{name} needs {SOURCES[measure.needs]}')
  subject, at = _subject(workdir, overrides, step, limit, note)
  statistics = routing_statistics(subject)
  if not statistics.count_NE:
    raise errors.InputError(
      f'the model of {workdir} has no layer with experts: there is no routing '
      'to measure'
    )
  rows = {name: measure(statistics) for name, measure in entries.items()}
  return {'workdir': workdir, 'step': at, 'measures': rows}


def routing_statistics(subject: Subject) -> RoutingStatistics:
  """Assignments of each expert by domain; no domains for a dense model."""
  counts = {name: score.count_NE for name, score in subject.scores.items()}
  return RoutingStatistics(
    {name: count for name, count in counts.items() if count is not None},
    subject.model.config.num_dense,
    subject.model.config.moe.used_choices,
  )


def _subject(
  workdir: str,
  overrides: Sequence[tuple[str, str]],
  step: str,
  limit: int,
  note: Say,
  weights: str = rounded.FULL,
) -> tuple[Subject, int]:
  """The model of a run with its weights and text, and the weights' step."""
  opened = trained.open_trained(workdir, overrides, USED, weights)
  run = opened.run
  report = data_progress.lines(note)
  data = data_build.build(run.data, run.train.batch_size, run.seed, report)
  if not data.validation:
    raise errors.InputError(
      f'the text of {workdir} has no validation set: there is nothing to '
      'evaluate on'
    )
  arrays, at = opened.weights(step, note)
  subject = Subject(
    model=opened.model,
    weights=arrays,
    data=data,
    hf_folder=opened.hf_folder,
    limit=limit,
    seed=run.seed,
    note=note,
  )
  return subject, at
