"""Traces of the checkpoints of a study's run, on the same tokens for all."""

import statistics
from collections.abc import Sequence

from moejax.analysis import trace_file
from moejax.analysis.trace import Trace
from moejax.core import terminal
from moejax.research import runs
from moejax.run import trace_files

TOKENS = 20_000  # of the validation sets, in equal shares


def traces(
  run: runs.FinishedRun, checkpoints: str = 'all', tokens: int = TOKENS
) -> list[Trace]:
  """Traces some checkpoints of a run, or reads the traces that exist.

  Args:
    run: the run.
    checkpoints: which, as for `moejax trace`.
    tokens: number of tokens of the validation sets.

  Raises:
    InputError: there is no such checkpoint, or a trace of other tokens.
  """
  request = trace_files.TraceRequest(checkpoints=checkpoints, tokens=tokens)
  paths = trace_files.trace_run(str(run.workdir), request, note=terminal.note)
  return [trace_file.read(path) for path in paths]


def sum_of_gates(trace: Trace) -> float:
  """The sum of a token's gates, the mean over tokens and layers."""
  return float(trace.weight_TNK.sum(axis=-1).mean())


def gates(
  group: Sequence[runs.FinishedRun], tokens: int = TOKENS
) -> dict[str, float]:
  """The sum of a method's gates at the start and the end, over its runs."""
  each = [traces(run, f'0,{run.steps}', tokens) for run in group]
  return {
    name: statistics.fmean(sum_of_gates(pair[place]) for pair in each)
    for name, place in (('start', 0), ('end', -1))
  }
