"""Results of the runs of a sweep, read from their folders.

A run is finished when its folder has a report. The file `sweep.json` beside the
folders has what they do not tell, such as why a run failed:

  {"switch": {"failed": null, "seconds": 61.2, "processes": 2}}
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from moejax.core import exits, files, log
from moejax.run import report, screen
from moejax.sweep.grid import SweepRun
from moejax.sweep.pool import Outcome

RECORDS, METRICS = 'sweep.json', 'metrics.jsonl'
FINISHED, FAILED = 'finished', 'failed'
INTERRUPTED, WAITING = 'interrupted', 'not run'

ROUTING = {
  'load_max': 'moe/load_max',
  'dead': 'moe/dead_experts',
  'dropped': 'moe/dropped',
}
# Routing of one batch is noisy: the mean over the last tenth of the records.
LAST = 10


@dataclasses.dataclass(frozen=True)
class RunResult:
  """One run.

  Attributes:
    name: name of the run.
    group: name that runs share which differ in their seed alone.
    seed: seed of the run.
    status: finished, failed, interrupted or not run.
    note: why it failed, or how far it is.
    loss: mean over the validation sets.
    bits_per_byte: mean over the validation sets; None where there is no text.
    domains: bits per byte of each validation set.
    load_max: load of the most loaded expert over the mean load of its layer, in
      the layer where that is largest.
    dead: share of experts that got no token of a batch.
    dropped: share of assignments that were not computed.
    tokens_per_s: speed of training, the median over the logged steps.
    total: number of parameters.
    active: number of parameters that one token uses.
    seconds: wall time from start to report.
    processes: number of runs that trained at a time.
  """

  name: str
  group: str
  seed: int
  status: str
  note: str = ''
  loss: float | None = None
  bits_per_byte: float | None = None
  domains: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
  load_max: float | None = None
  dead: float | None = None
  dropped: float | None = None
  tokens_per_s: float | None = None
  total: int | None = None
  active: int | None = None
  seconds: float | None = None
  processes: int | None = None


def records(folder: epath.Path) -> dict[str, dict[str, Any]]:
  """Reads `sweep.json`; empty before the first run has ended."""
  path = folder / RECORDS
  return json.loads(path.read_text()) if path.exists() else {}


def record(
  folder: epath.Path, name: str, outcome: Outcome, processes: int
) -> None:
  """Writes to `sweep.json` how the process of a run ended."""
  kept = records(folder)
  before = kept.get(name, {})
  failed = outcome.code not in {exits.DONE, exits.INTERRUPTED}
  kept[name] = {
    **before,
    'failed': outcome.message if failed else None,
    'seconds': before.get('seconds', 0.0) + outcome.seconds,
    'processes': processes,
  }
  files.atomic_write_json(folder / RECORDS, kept)


def read(
  run: SweepRun, steps: int, folder: epath.Path, kept: Mapping[str, Any]
) -> RunResult:
  """Reads the state of a run, and its results.

  Args:
    run: the run.
    steps: number of its training steps.
    folder: workdir of the run.
    kept: entry of the run in `sweep.json`.
  """
  path = folder / METRICS
  logged = log.read(path) if path.exists() else []
  reported = report.read(folder)
  if reported is not None and reported.get('steps', steps) >= steps:
    status, note = FINISHED, ''
  elif kept.get('failed') is not None:
    status, note = FAILED, kept['failed'].removeprefix('error: ')
  elif logged:
    status, note = INTERRUPTED, f'at step {logged[-1]["step"]} of {steps}'
  else:
    status, note = WAITING, ''
  # Reports of earlier versions have no parameter counts; sweep.json had them.
  scores: dict[str, Any] = {key: kept.get(key) for key in ('total', 'active')}
  if reported is not None:
    scores |= _scores(reported)
  return RunResult(
    name=run.name,
    group=run.group,
    seed=run.seed,
    status=status,
    note=note,
    seconds=kept.get('seconds'),
    processes=kept.get('processes'),
    **scores,
    **_training(logged),
  )


def _scores(reported: Mapping[str, Any]) -> dict[str, Any]:
  """Parameters, and means over the validation sets, each counted once."""
  domains = reported['domains']
  bits = {name: row['bits_per_byte'] for name, row in domains.items()}
  counts = {
    key: reported[f'{key}_parameters']
    for key in ('total', 'active')
    if f'{key}_parameters' in reported
  }
  return counts | {
    'loss': statistics.fmean(row['loss'] for row in domains.values()),
    'bits_per_byte': mean(list(bits.values())),
    'domains': bits,
  }


def _training(logged: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Routing in the last records of training, and the speed in all of them."""
  numbers = {}
  for name, key in ROUTING.items():
    values = [record[key] for record in logged if key in record]
    numbers[name] = mean(values[-math.ceil(len(values) / LAST) :])
  speeds = [r[screen.TOKENS_PER_S] for r in logged if screen.TOKENS_PER_S in r]
  numbers['tokens_per_s'] = statistics.median(speeds) if speeds else None
  return numbers


def mean(values: Sequence[float | None]) -> float | None:
  """The mean; None if there are no values, or if one of them is None."""
  known = [value for value in values if value is not None]
  return statistics.fmean(known) if values and known == [*values] else None
