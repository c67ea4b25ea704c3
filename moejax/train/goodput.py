"""Goodput: the seconds of a run by activity, over all its restarts.

A run that is killed and started again takes several processes, one after the
other. Every second of a process counts in exactly one part, the innermost that
is open:

  start_up    Python, imports, opening (or packing) the text, checks
  compile     the first call of the training step: tracing, and XLA or its cache
  restore     reading a checkpoint, or drawing fresh weights
  data_wait   waiting for the next batch
  step        training: dispatching steps and waiting for their results
  save        the part of saving that blocks training; the rest runs beside it
  evaluation  validation losses during training, and the report at the end
  lost        steps (and waits for their data) that a later process had to
              repeat, because its checkpoint was older than they

Each line of metrics.jsonl has the sums until then under `time/goodput/`, and
goodput.json has them at boundaries and at each start. So the seconds of a
process are known up to its last line. Seconds between that line and a SIGKILL
count in no part.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from moejax.core import columns, files, log

PARTS = (
  'start_up', 'compile', 'restore', 'data_wait', 'step', 'save', 'evaluation',
  'lost',
)  # fmt: skip
# Parts whose work after the last checkpoint is repeated after a kill.
REPEATED = ('data_wait', 'step')
NAME = f'{log.TIME}goodput/'
SHARE = f'{NAME}share'
FILE = 'goodput.json'


class Goodput:
  """Adds up the seconds of each part.

  Example:
    goodput = Goodput()
    with goodput.part('step'):
      ...
      with goodput.part('save'):  # these seconds are not the step's
        ...
    goodput.values()  # {'time/goodput/step_s': 1.5, ...}
  """

  def __init__(
    self,
    path: epath.PathLike | None = None,
    *,
    began: float | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Begins in `start_up`.

    Args:
      path: file that keeps the sums for the next process; None for no file.
      began: time by `clock` at which the process began; None means now.
      clock: returns the time in seconds.
    """
    self._path = None if path is None else epath.Path(path)
    self._clock = clock
    self._seconds = dict.fromkeys(PARTS, 0.0)
    self._open = ['start_up']
    self._since = clock() if began is None else began
    self._starts = 1

  @contextlib.contextmanager
  def part(self, name: str) -> Iterator[None]:
    """Counts the seconds of the block for this part only."""
    self._count()
    self._open.append(name)
    try:
      yield
    finally:
      self._count()
      self._open.pop()

  def seconds(self) -> dict[str, float]:
    """Seconds of each part until now, in the order of `PARTS`."""
    self._count()
    return dict(self._seconds)

  def values(self) -> dict[str, float]:
    """Seconds of each part as metrics, and the share of `step` in their sum."""
    seconds = self.seconds()
    by_part = {f'{NAME}{part}_s': value for part, value in seconds.items()}
    return {**by_part, SHARE: _share(seconds)}

  def resume(self, step: int, records: Iterable[Mapping[str, Any]]) -> None:
    """Adds the seconds of the run's earlier processes.

    Example: a process wrote lines at step 10 (5 s in `step`) and at step 20
    (9 s in `step`), and was killed. This process resumes from a checkpoint of
    step 10. It begins with 5 s in `step` and 4 s in `lost`.

    Args:
      step: step of the checkpoint from which the run resumes; 0 for none.
      records: records of metrics.jsonl, those of steps after `step` included.
    """
    known = [(r['step'], s) for r in records if (s := _of_record(r))]
    at_checkpoint = max(
      (s for line_step, s in known if line_step <= step),
      key=_total,
      default=_zeros(),
    )
    from_file, starts = self._read()
    last = max([from_file, *(s for _, s in known)], key=_total)
    for name in REPEATED:
      lost = max(last[name] - at_checkpoint[name], 0.0)
      last = {**last, name: last[name] - lost, 'lost': last['lost'] + lost}
    self._count()
    for name, value in last.items():
      self._seconds[name] += value
    self._starts = starts + 1
    self.keep()

  def keep(self) -> None:
    """Writes the file, whole or not at all.

    A failure does not stop the run. If the disk is full, checkpoints and
    metrics fail too, with an error of their own.
    """
    if self._path is not None:
      record = {'starts': self._starts, 'seconds': self.seconds()}
      with contextlib.suppress(OSError):
        files.atomic_write_json(self._path, record)

  def table(self) -> list[str]:
    """The lines of a table of all parts, for the end of a run."""
    return table(self.seconds(), self._starts)

  def _count(self) -> None:
    now = self._clock()
    self._seconds[self._open[-1]] += now - self._since
    self._since = now

  def _read(self) -> tuple[dict[str, float], int]:
    """Seconds and starts of earlier processes; zeros if there is no file."""
    if self._path is None:
      return _zeros(), 0
    try:
      record = json.loads(self._path.read_text())
      seconds = {p: float(record['seconds'].get(p, 0)) for p in PARTS}
      return seconds, int(record['starts'])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
      return _zeros(), 0


def table(seconds: Mapping[str, float], starts: int) -> list[str]:
  """A table of parts, seconds and shares, as lines.

  Example:
    seconds in    start_up  compile  ...  lost
    of 2 starts      12.1      8.0   ...   3.2
    share             11%       7%   ...    3%
  """
  total = max(_total(seconds), 1e-9)
  several = 's' if starts != 1 else ''
  rows = [
    ('seconds in', f'of {starts} start{several}', 'share'),
    *((p, f'{seconds[p]:.1f}', f'{seconds[p] / total:.0%}') for p in PARTS),
  ]
  return columns.aligned([*zip(*rows, strict=True)])


def process_age() -> float:
  """Seconds since this process began; 0 on systems without /proc."""
  try:
    with open('/proc/self/stat', encoding='utf-8') as f:
      # The name of the program, in brackets, may contain spaces and brackets.
      ticks = float(f.read().rpartition(')')[2].split()[19])
    with open('/proc/uptime', encoding='utf-8') as f:
      uptime = float(f.read().split()[0])
    return max(uptime - ticks / os.sysconf('SC_CLK_TCK'), 0.0)
  except (OSError, ValueError, IndexError):
    return 0.0


def _of_record(record: Mapping[str, Any]) -> dict[str, float] | None:
  """The seconds of each part in a line of metrics.jsonl; None without them."""
  if f'{NAME}step_s' not in record:
    return None
  return {p: float(record.get(f'{NAME}{p}_s', 0)) for p in PARTS}


def _zeros() -> dict[str, float]:
  return dict.fromkeys(PARTS, 0.0)


def _total(seconds: Mapping[str, float]) -> float:
  return sum(seconds.values())


def _share(seconds: Mapping[str, float]) -> float:
  return seconds['step'] / max(_total(seconds), 1e-9)
