"""What the runs of a sweep reached, read from their folders.

A run is finished when its folder has a report. What a folder does not tell, why
a run failed say, is kept in `sweep.json` beside the folders:

  {"switch": {"failed": null, "seconds": 61.2, "processes": 2,
              "total": 9713984, "active": 3960128}}
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
from moejax.sweep.pool import Answer

RECORDS, METRICS = 'sweep.json', 'metrics.jsonl'
FINISHED, FAILED = 'finished', 'failed'
INTERRUPTED, WAITING = 'interrupted', 'not run'

ROUTING = {
  'load_max': 'moe/load_max',
  'dead': 'moe/dead_experts',
  'dropped': 'moe/dropped',
}
# Routing of one batch is noisy: the mean of the last tenth of what was logged.
LAST = 10


@dataclasses.dataclass(frozen=True)
class Result:
  """One run.

  Attributes:
    name: of the run.
    group: of runs that differ in their seed alone.
    seed: the run's.
    status: finished, failed, interrupted or not run.
    note: why it failed, or how far it is.
    loss: mean over the validation sets.
    bits_per_byte: the same; None where there is no text.
    domains: bits per byte of each validation set.
    load_max: the most loaded expert over the mean of its layer, in the worst.
    dead: the share of experts that got nothing of a batch.
    dropped: the share of assignments that were not computed.
    tokens_per_s: of training, the median over the logged steps.
    total: parameters.
    active: of them, per token.
    seconds: that it took, from start to report.
    processes: how many runs trained at a time.
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
  """What is kept of each run beside its folder; empty before the first."""
  path = folder / RECORDS
  return json.loads(path.read_text()) if path.exists() else {}


def record(
  folder: epath.Path, name: str, answer: Answer, processes: int
) -> None:
  """Keeps what is known of a run when its process is done with it."""
  kept = records(folder)
  before = kept.get(name, {})
  counted = {'total': answer.total, 'active': answer.active}
  failed = answer.code not in {exits.DONE, exits.INTERRUPTED}
  kept[name] = {
    **before,
    'failed': answer.message if failed else None,
    'seconds': before.get('seconds', 0.0) + answer.seconds,
    'processes': processes,
    **{key: value for key, value in counted.items() if value is not None},
  }
  files.atomic_write_json(folder / RECORDS, kept)


def read(
  run: SweepRun, steps: int, folder: epath.Path, kept: Mapping[str, Any]
) -> Result:
  """How far a run is, and what it reached.

  Args:
    run: of the sweep.
    steps: that it takes.
    folder: the run's own.
    kept: what `sweep.json` has of it.
  """
  path = folder / METRICS
  logged = log.read(path) if path.exists() else []
  found = report.read(folder)
  if found is not None and found.get('steps', steps) >= steps:
    status, note = FINISHED, ''
  elif kept.get('failed') is not None:
    status, note = FAILED, kept['failed'].removeprefix('error: ')
  elif logged:
    status, note = INTERRUPTED, f'at step {logged[-1]["step"]} of {steps}'
  else:
    status, note = WAITING, ''
  known = {
    key: kept.get(key) for key in ('total', 'active', 'seconds', 'processes')
  }
  return Result(
    name=run.name,
    group=run.group,
    seed=run.seed,
    status=status,
    note=note,
    **known,
    **_scores(found),
    **_training(logged),
  )


def _scores(found: Mapping[str, Any] | None) -> dict[str, Any]:
  """Means over the validation sets, each counted once."""
  if found is None:
    return {}
  domains = found['domains']
  bits = {name: row['bits_per_byte'] for name, row in domains.items()}
  return {
    'loss': statistics.fmean(row['loss'] for row in domains.values()),
    'bits_per_byte': mean(list(bits.values())),
    'domains': bits,
  }


def _training(logged: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Routing at the end of what was logged, and the speed of all of it."""
  found = {}
  for name, key in ROUTING.items():
    values = [record[key] for record in logged if key in record]
    found[name] = mean(values[-math.ceil(len(values) / LAST) :])
  speeds = [r[screen.TOKENS_PER_S] for r in logged if screen.TOKENS_PER_S in r]
  found['tokens_per_s'] = statistics.median(speeds) if speeds else None
  return found


def mean(values: Sequence[float | None]) -> float | None:
  """None where there is nothing, or not all is known."""
  if not values or None in values:
    return None
  return statistics.fmean(values)
