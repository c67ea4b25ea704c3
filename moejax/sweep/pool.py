"""Processes that train the runs of a sweep, some at a time.

Each run is a process of its own, so a run that dies, for example for lack of
memory, fails alone. Its output, that of native code included, goes to log.txt
in its folder. The processes do not get the terminal's Ctrl-C. Closing their
standard input stops them; the system closes it also when the sweep is killed.
"""

import collections
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures

from moejax.core import exits

WORKER = ('-m', 'moejax.sweep.worker')
LOG = 'log.txt'


@dataclasses.dataclass(frozen=True)
class QueuedRun:
  """A run to be trained.

  Attributes:
    name: name of the run.
    config: path[:arg] of its config file.
    overrides: dotted paths and texts, as for --config.<path>=<text>.
    folder: workdir of the run.
  """

  name: str
  config: str
  overrides: Sequence[tuple[str, str]]
  folder: str


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How the process of a run ended.

  Attributes:
    code: exit code, see `moejax.core.exits`.
    message: the reason where the code is not 0.
    seconds: wall time of the process.
  """

  code: int
  message: str = ''
  seconds: float = 0.0


class _Process:
  """A run at work on some cores."""

  def __init__(
    self, job: QueuedRun, on_cores: list[int], env: Mapping[str, str]
  ):
    self.job, self.cores = job, on_cores
    self._begin = time.monotonic()
    self._log = pathlib.Path(job.folder) / LOG
    self._log.parent.mkdir(parents=True, exist_ok=True)
    flags = [f'--config={job.config}', f'--workdir={job.folder}']
    flags += [f'--cores={",".join(map(str, on_cores))}']
    flags += [f'--config.{key}={text}' for key, text in job.overrides]
    with self._log.open('a', encoding='utf-8') as log:
      self.popen = subprocess.Popen(
        [sys.executable, *WORKER, *flags],
        env=dict(env),
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
      )

  def stop(self) -> None:
    """Asks the process to save its state and end."""
    if self.popen.stdin is not None:
      self.popen.stdin.close()

  def outcome(self) -> Outcome:
    """Waits for the end of the process."""
    code = self.popen.wait()
    self.stop()
    message = _last_line(self._log) if code else ''
    if code < 0:
      name = signal.Signals(-code).name
      code, message = exits.BUG, f'the process was ended by {name}; {message}'
    return Outcome(code, message, time.monotonic() - self._begin)


def run(
  jobs: Sequence[QueuedRun],
  processes: int,
  env: Mapping[str, str],
  started: Callable[[QueuedRun], None],
  ended: Callable[[QueuedRun, Outcome], None],
) -> None:
  """Trains all runs, in their order.

  Args:
    jobs: the runs.
    processes: how many train at a time; each keeps to its share of the cores.
    env: environment of the processes.
    started: called before the process of a run starts.
    ended: called after the process has ended, also after a failure.

  Raises:
    KeyboardInterrupt: the user pressed Ctrl-C. The runs at work have saved
      their state, unless Ctrl-C was pressed again.
  """
  waiting, free = collections.deque(jobs), shares(processes, cores())
  working: dict[futures.Future[Outcome], _Process] = {}
  with futures.ThreadPoolExecutor(processes) as threads:
    try:
      while waiting or working:
        while waiting and free:
          started(waiting[0])
          process = _Process(waiting.popleft(), free.pop(0), env)
          working[threads.submit(process.outcome)] = process
        done, _ = futures.wait(working, return_when=futures.FIRST_COMPLETED)
        for future in done:
          process = working.pop(future)
          free.append(process.cores)
          ended(process.job, future.result())
    except BaseException:
      for process in working.values():
        process.stop()
      for future in list(working):
        ended(working[future].job, future.result())
        del working[future]
      raise
    finally:
      for process in working.values():
        process.popen.kill()


def _last_line(log: pathlib.Path) -> str:
  """The last line that is not blank; '' if there is none."""
  lines = log.read_text(encoding='utf-8', errors='replace').split('\n')
  return next((line.strip() for line in lines[::-1] if line.strip()), '')


def shares(processes: int, among: Sequence[int]) -> list[list[int]]:
  """The cores of each process: neighbours, and shared only if they are too few.

  Example:
    2 processes, cores 0 1 2 3 4: [[0, 1], [2, 3, 4]]
    3 processes, cores 0 1: [[0], [0], [1]]
  """
  num = len(among)
  bounds = [i * num // processes for i in range(processes + 1)]
  return [
    list(among[first : max(first + 1, last)])
    for first, last in zip(bounds, bounds[1:], strict=False)
  ]


def cores() -> list[int]:
  """The cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))
