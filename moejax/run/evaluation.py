"""Evaluations of a run's model, and measures of its routers."""

from collections.abc import Callable, Sequence
from typing import Any

from moejax.analysis import MEASURES
from moejax.analysis.statistics import RoutingStatistics
from moejax.core import errors, table
from moejax.data import build as data_build
from moejax.evals import EVALS
from moejax.evals.subject import Subject
from moejax.run import data_progress, trained

Say = Callable[[str], None]
# Groups of config keys that matter to an evaluation.
USED = ('model.', 'mesh.', 'data.')


def evaluate(
  workdir: str,
  names: Sequence[str],
  overrides: Sequence[tuple[str, str]],
  *,
  step: str,
  limit: int,
  note: Say,
) -> dict[str, Any]:
  """Evaluates the model of a run.

  Args:
    workdir: of the run.
    names: of entries of EVALS.
    overrides: config keys to change, as dotted paths and texts.
    step: which checkpoint, see `restore.weights`.
    limit: batches of each validation set; 0 for all.
    note: is given a line on each thing that takes long.

  Returns:
    The workdir, the step, and `evals`: by name {row: {name: value}}.

  Raises:
    InputError: an unknown name, no such checkpoint, or unusable text.
  """
  entries = {name: table.lookup('evaluation', EVALS, name) for name in names}
  subject, at = _subject(workdir, overrides, step, limit, note)
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

  Args and errors are those of `evaluate`, with names of MEASURES.

  Returns:
    The workdir, the step, and `measures`: by name {row: {name: value}}.

  Raises:
    InputError: also for a model without experts.
  """
  entries = {name: table.lookup('measure', MEASURES, name) for name in names}
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
  """The assignments on each validation set; no domains without experts."""
  counts = {name: score.count_NE for name, score in subject.scores.items()}
  return RoutingStatistics(
    {name: count for name, count in counts.items() if count is not None},
    subject.model.config.num_dense,
  )


def _subject(
  workdir: str,
  overrides: Sequence[tuple[str, str]],
  step: str,
  limit: int,
  note: Say,
) -> tuple[Subject, int]:
  """The model of a run with its weights and text, and the weights' step."""
  opened = trained.open_trained(workdir, overrides, USED)
  run = opened.run
  report = data_progress.lines(note)
  data = data_build.build(run.data, run.train.batch_size, run.seed, report)
  if not data.validation:
    raise errors.InputError(
      f'the text of {workdir} has no validation set: there is nothing to '
      'evaluate on'
    )
  weights, at = opened.weights(step, note)
  subject = Subject(
    model=opened.model,
    weights=weights,
    data=data,
    hf_folder=opened.hf_folder,
    limit=limit,
    seed=run.seed,
    note=note,
  )
  return subject, at
