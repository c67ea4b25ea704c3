"""Work in processes, with results in the order of the jobs.

A worker is a Python that imports what the work needs and nothing of JAX, and
that gets jobs and returns results through pipes. It is started as a command of
its own, so that neither a fork of a process with JAX's threads nor a second
import of the user's main script is needed. A worker ends when its pipe is
closed, and so outlives no calling process, not even a killed one.
"""

import collections
import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent import futures
from typing import Any, TypeVar

from moejax.core import errors

Job = TypeVar('Job')
_JOBS_PER_WORKER = 4  # that are under way at a time
# Each worker has one core: tokenizers would start a thread for every core.
_ONE_THREAD = {'RAYON_NUM_THREADS': '1', 'TOKENIZERS_PARALLELISM': 'false'}
_BOOTSTRAP = (
  'import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); '
  'from moejax.data import workers; workers.serve()'
)


def cores() -> int:
  """The number of cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def in_order(
  jobs: Iterable[Job], work: Callable[[Job], Any], processes: int
) -> Generator[tuple[Job, Any]]:
  """Each job with its result, in the order of the jobs.

  Args:
    jobs: values that pickle.
    work: from a job to its result; it is sent to each worker once.
    processes: workers.

  Raises:
    InputError: a worker ended before its work.
    Exception: what the work raised.
  """
  with _workers(work, processes) as submit:
    pending: collections.deque[tuple[Job, futures.Future]] = collections.deque()
    for job in jobs:
      pending.append((job, submit(job)))
      if len(pending) >= _JOBS_PER_WORKER * processes:
        job, future = pending.popleft()
        yield job, future.result()
    for job, future in pending:
      yield job, future.result()


def can_be_sent(value: Any) -> bool:
  """Whether a worker can import the class of a value."""
  return type(value).__module__ != '__main__'


@contextlib.contextmanager
def _workers(work: Callable, processes: int) -> Iterator[Any]:
  """Starts workers; gives a function from a job to the future of its result."""
  idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
  workers: list[_Worker] = []

  def run(job: Any) -> Any:
    worker = idle.get()
    try:
      return worker.run(job)
    finally:
      idle.put(worker)

  threads = futures.ThreadPoolExecutor(processes, 'moejax-workers')
  try:
    for _ in range(processes):
      workers.append(_Worker(work))
      idle.put(workers[-1])
    yield lambda job: threads.submit(run, job)
  finally:
    # First the workers: their threads then stop waiting for them.
    for worker in workers:
      worker.kill()
    threads.shutdown(cancel_futures=True)


class _Worker:
  """A process that works; used by one thread at a time."""

  def __init__(self, work: Callable):
    self._process = subprocess.Popen(
      [sys.executable, '-c', _BOOTSTRAP],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      env={**os.environ, **_ONE_THREAD},
      start_new_session=True,  # Ctrl-C is for the calling process
    )
    self._first: list[Any] = [sys.path, work]

  def run(self, job: Any) -> Any:
    """The result of a job.

    Raises:
      InputError: the process has ended.
    """
    assert self._process.stdin
    assert self._process.stdout
    try:
      for value in (*self._first, job):
        pickle.dump(value, self._process.stdin, pickle.HIGHEST_PROTOCOL)
      self._process.stdin.flush()
      self._first = []
      result, error = pickle.load(self._process.stdout)
    except (OSError, EOFError, pickle.UnpicklingError):
      code = self._process.wait()
      how = f'code {code}' if code >= 0 else signal.Signals(-code).name
      raise errors.InputError(
        f'a process that works on text ended early ({how}), as when memory '
        'runs out: run again with fewer --processes of moejax cache; '
        'finished shards are kept'
      ) from None
    if error is not None:
      raise error
    return result

  def kill(self) -> None:
    """Ends the process, whatever it does."""
    self._process.kill()
    self._process.wait()
    for pipe in (self._process.stdin, self._process.stdout):
      with contextlib.suppress(OSError):
        if pipe:
          pipe.close()


def serve() -> None:
  """A worker: reads its work and then jobs from stdin, until its end."""
  jobs, results = sys.stdin.buffer, os.fdopen(os.dup(1), 'wb')
  os.dup2(2, 1)  # what libraries print is no result
  # A closed pipe ends a message anywhere.
  with contextlib.suppress(EOFError, BrokenPipeError, pickle.UnpicklingError):
    work = pickle.load(jobs)
    while True:
      pickle.dump(
        _result(work, pickle.load(jobs)), results, pickle.HIGHEST_PROTOCOL
      )
      results.flush()
  os._exit(0)  # without a word about a closed pipe


def _result(work: Callable, job: Any) -> tuple[Any, Exception | None]:
  """The result of a job, or what it raised."""
  try:
    return work(job), None
  except Exception as e:  # noqa: BLE001 (it is raised in the calling process)
    return None, e
