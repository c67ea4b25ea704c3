"""The processes of a sweep: each takes the next run when it is free.

A process that dies (out of memory, say) has failed the run that it had, and a
new one takes its place. The processes do not get the terminal's Ctrl-C: they
are told to stop by closing their standard input, which also happens when the
sweep itself is killed.
"""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from moejax.core import exits
from moejax.sweep import worker as worker_lib

WORKER = ('-m', 'moejax.sweep.worker')
# What a process without a run is given to end, before it is killed.
PATIENCE_S = 5


@dataclasses.dataclass(frozen=True)
class Job:
  """A run for a process; see `sweep_worker`.

  Attributes:
    name: of the run.
    config: path[:arg] of its config file.
    overrides: dotted paths and texts.
    folder: its workdir.
  """

  name: str
  config: str
  overrides: Sequence[tuple[str, str]]
  folder: str


@dataclasses.dataclass(frozen=True)
class Answer:
  """How a run went.

  Attributes:
    code: an exit code, see `command`.
    message: why, where that is not 0.
    seconds: that it took; 0 if the process died.
    total: parameters; None if they could not be counted.
    active: of them, per token.
  """

  code: int
  message: str = ''
  seconds: float = 0.0
  total: int | None = None
  active: int | None = None


class _Worker:
  """One process."""

  def __init__(self, on_cores: Sequence[int], env: Mapping[str, str]):
    self.job: Job | None = None
    self.process = subprocess.Popen(
      [sys.executable, *WORKER, f'--cores={",".join(map(str, on_cores))}'],
      env=dict(env),
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )

  def give(self, job: Job) -> None:
    """Hands it a run; it must have none."""
    self.job = job
    with contextlib.suppress(BrokenPipeError):  # `answer` tells that it died
      self.process.stdin.write(json.dumps(dataclasses.asdict(job)) + '\n')
      self.process.stdin.flush()

  def answer(self) -> tuple[Job, Answer]:
    """Waits for the end of the run, or of the process."""
    line = self.process.stdout.readline()
    job, self.job = self.job, None
    if line:
      return job, Answer(**json.loads(line))
    code = self.process.wait()
    how = (
      f'by {signal.Signals(-code).name}' if code < 0 else f'with code {code}'
    )
    said = worker_lib.last_line(pathlib.Path(job.folder) / worker_lib.LOG)
    return job, Answer(exits.BUG, f'the process was ended {how}; {said}')

  @property
  def alive(self) -> bool:
    """Whether it can be given another run."""
    return self.process.poll() is None

  def stop(self) -> None:
    """Asks it to save and end."""
    with contextlib.suppress(BrokenPipeError):
      self.process.stdin.close()

  def end(self) -> None:
    """Ends it, whatever it does."""
    self.stop()
    try:
      self.process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
      self.process.kill()
      self.process.wait()
    self.process.stdout.close()


def run(
  jobs: Sequence[Job],
  processes: int,
  env: Mapping[str, str],
  started: Callable[[Job], None],
  ended: Callable[[Job, Answer], None],
) -> None:
  """Does all jobs, in their order, so many at a time.

  Args:
    jobs: the runs.
    processes: how many at a time; each keeps to its share of the cores.
    env: the environment of the processes.
    started: called when a run is handed to a process.
    ended: called when it is over, in whatever way.

  Raises:
    KeyboardInterrupt: it came. What was running has saved its state, unless
      Ctrl-C came again.
  """
  waiting = collections.deque(jobs)
  own = shares(processes, cores())[: len(jobs)]
  workers: dict[int, _Worker] = {}
  try:
    with selectors.DefaultSelector() as busy:

      def begin(number: int) -> None:
        if number not in workers or not workers[number].alive:
          workers[number] = _Worker(own[number], env)
        worker, job = workers[number], waiting.popleft()
        started(job)
        worker.give(job)
        busy.register(worker.process.stdout, selectors.EVENT_READ, number)

      for number in range(len(own)):
        begin(number)
      while busy.get_map():
        for key, _ in busy.select():
          busy.unregister(key.fileobj)
          ended(*workers[key.data].answer())
          if waiting:
            begin(key.data)
  except KeyboardInterrupt:
    for worker in workers.values():
      worker.stop()
    for worker in workers.values():
      if worker.job is not None:
        ended(*worker.answer())
    raise
  finally:
    for worker in workers.values():
      worker.end()


def shares(processes: int, among: Sequence[int]) -> list[list[int]]:
  """The cores of each process: neighbours, and no two the same if they suffice.

  Example:
    2 processes, cores 0 1 2 3 4: [[0, 1], [2, 3, 4]]
    3 processes, cores 0 1: [[0], [0], [1]]
  """
  num = len(among)
  found = []
  for i in range(processes):
    first = i * num // processes
    last = max(first + 1, (i + 1) * num // processes)
    found.append(list(among[first:last]))
  return found


def cores() -> list[int]:
  """The cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))
