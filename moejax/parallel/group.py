"""JAX's coordination service: its start, and what processes share by it.

Shared are values, barriers and the step to stop after, by the barriers and the
key-value store of the service: outside of the devices, so that a thread may ask
while a step computes. (The collectives of `multihost_utils`, and Orbax's
broadcast, which is made of them, need every device of every process, in one
order.)

A lost process is the matter of `parallel/processes.py`, which ends this one:
whoever waits here waits as long as all processes live.

This is the one file that imports `jax._src`: JAX has no public way to the store
of its service, nor to ask where a cluster's launcher has put this process.
"""

import concurrent.futures
import contextlib
import ctypes
import dataclasses
import json
import signal
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
from jax._src import clusters, distributed
from jax.errors import JaxRuntimeError

from moejax.core import errors, files

T = TypeVar('T')
# A stop that a process asks for after step s is for all after step s + AHEAD.
# No process is more than one step beyond another: to begin step n it has
# fetched the results of step n - 2, for which all had to compute that one.
AHEAD = 2
FOREVER_MS = 10**11  # three years
STOP = 'moejax/stop'


class Group:
  """The processes of a run; this class is a run of one, which never waits.

  All processes have to make the same calls of a name in the same order. Values
  are as JSON has them.
  """

  index, count = 0, 1

  def gather(self, name: str, value: Any) -> list[Any]:
    """The value of each process, in their order, in all of them."""
    del name
    return [value]

  def barrier(self, name: str, deadline_s: float | None = None) -> None:
    """Waits until all processes have come; by default as long as they live.

    Raises:
      LostHostError: in all, and names those that had not come in time.
    """

  def agree(self, signal_name: str | None, step: int) -> str | None:
    """The signal that stops all processes after this step, or None.

    Every process asks after each step. Example, SIGINT to process 1 in step 4:
      process 0  ... 4: None    5: None  6: 'SIGINT'
      process 1  ... 4: None    5: None  6: 'SIGINT'
    """
    del step
    return signal_name

  def broadcast(self, name: str, work: Callable[[], Any]) -> Any:
    """What `work` returns in process 0, in all processes."""
    return self.gather(name, None if self.index else work())[0]

  def main_first(self, name: str, work: Callable[[], T]) -> T:
    """`work` in process 0 and then in the others: slow once, quick after."""
    if self.index:
      self.barrier(name)
      return work()
    result = work()
    self.barrier(name)
    return result

  def spread(self, name: str) -> files.Spread:
    """Work on many items, shared by all; an OSError in one is raised in all.

    Example, 5 items and 2 processes:
      process 0  makes the items, works on 0 2 4
      process 1                   works on 1 3
    """
    if self.count == 1:
      return files.in_threads

    def spread(
      work: Callable[[Any], T], items: Callable[[], list[Any]]
    ) -> list[T]:
      every = self.broadcast(f'{name}, items', items)
      mine, problem = [], None
      try:
        mine = files.in_threads(work, lambda: every[self.index :: self.count])
      except OSError as error:
        problem = [error.errno, error.strerror or str(error)]
      shares = self.gather(f'{name}, results', [mine, problem])
      if problem := next(filter(None, (p for _, p in shares)), None):
        raise OSError(*problem)
      for index, (share, _) in enumerate(shares):
        every[index :: self.count] = share
      return every

    return spread


SINGLE = Group()


class JoinedGroup(Group):
  """The processes that JAX's coordination service has joined.

  Args:
    client: of the service.
    index: of this process.
    names: of all processes, for messages; example: 'process 1 (node1)'.
  """

  def __init__(self, client: Any, index: int, names: Sequence[str]):
    self.index, self.count = index, len(names)
    self._client, self._names = client, names
    self._rounds = Counter[str]()
    self._calls = concurrent.futures.ThreadPoolExecutor(4, 'group')
    self._stop: tuple[str, int] | None = None
    self._all_know = threading.Event()
    threading.Thread(target=self._hear_of_stop, daemon=True).start()

  def gather(self, name: str, value: Any) -> list[Any]:
    """The value of each process, in their order, in all of them."""
    return self._meet(name, value)

  def barrier(self, name: str, deadline_s: float | None = None) -> None:
    """Waits until all processes have come; see `Group.barrier`."""
    self._meet(name, None, deadline_s)

  def agree(self, signal_name: str | None, step: int) -> str | None:
    """The signal that stops all processes after this step; see `Group.agree`.

    It costs nothing until one process has a signal; that one waits until all
    have heard of it.
    """
    if signal_name and self._stop is None:
      with contextlib.suppress(JaxRuntimeError):  # another one was first
        self._client.key_value_set(
          STOP, json.dumps([signal_name, step + AHEAD])
        )
      self._all_know.wait()
    stop = self._stop
    return stop[0] if stop and step >= stop[1] else None

  def _hear_of_stop(self) -> None:
    with contextlib.suppress(JaxRuntimeError):  # the run has ended without
      stop = self._client.blocking_key_value_get(STOP, FOREVER_MS)
      self._stop = tuple(json.loads(stop))
      self._client.wait_at_barrier(STOP, FOREVER_MS)
      self._all_know.set()

  def _meet(
    self, name: str, value: Any, deadline_s: float | None = None
  ) -> list[Any]:
    """Stores a value, waits until all have done so, and reads them.

    Process 0 removes the values of a round after the next of the same name,
    when all have read them.
    """
    self._rounds[name] += 1
    folder = f'moejax/{name}/{self._rounds[name]}'
    wait_ms = FOREVER_MS if deadline_s is None else int(1000 * deadline_s)
    self._client.key_value_set(f'{folder}/{self.index}', json.dumps(value))
    wait = self._calls.submit(self._client.wait_at_barrier, folder, wait_ms)
    try:
      wait.result()  # here, and not in the service, Ctrl-C is heard
    except JaxRuntimeError as error:
      if deadline_s is None or 'DEADLINE_EXCEEDED' not in str(error):
        raise
      # A process that comes after all others had given up names itself.
      missing = {*range(self.count)} - self._values(folder).keys()
      missing = missing or {self.index}
      names = ', '.join(self._names[index] for index in sorted(missing))
      raise errors.LostHostError(
        f'after {deadline_s:g} s {names} had not come to {name!r}; see what '
        'they wrote last'
      ) from None
    values = self._values(folder)
    if self.index == 0 and self._rounds[name] > 1:
      before = f'moejax/{name}/{self._rounds[name] - 1}/'
      self._client.key_value_delete(before)
    return [values[index] for index in range(self.count)]

  def _values(self, folder: str) -> dict[int, Any]:
    return {
      int(key.rpartition('/')[2]): json.loads(text)
      for key, text in self._client.key_value_dir_get(f'{folder}/')
    }


@dataclasses.dataclass(frozen=True)
class Place:
  """Which process of a run this is, and where process 0 is (host:port)."""

  coordinator: str
  count: int
  index: int
  local_devices: tuple[int, ...] | None = None

  @property
  def address(self) -> tuple[str, int]:
    """Host and port of process 0."""
    host, _, port = self.coordinator.rpartition(':')
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
      raise errors.InputError(
        f'--coordinator={self.coordinator} must be host:port of process 0, '
        'such as node1:9876'
      )
    return host.strip('[]'), int(port)


def detect(patience_s: float) -> Place | None:
  """The place that the launcher of a cluster has given to this process.

  JAX knows TPU pods, Slurm, Kubernetes and Open MPI. It asks no network but on
  a TPU, and there not longer than `patience_s`.

  Raises:
    Exception: whatever the interface of a cluster raises.
  """
  with warnings.catch_warnings(action='ignore'):
    coordinator, count, index, devices = (
      clusters.ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, int(patience_s)
      )
    )
  if coordinator is None or count is None or index is None or count == 1:
    return None
  local = None if devices is None else tuple(devices)
  return Place(coordinator, count, index, local)


def start(
  place: Place, names: Sequence[str], join_s: float, silence_s: float
) -> JoinedGroup:
  """Starts JAX's service among processes that have met; before any device.

  Args:
    place: of this process.
    names: of all processes.
    join_s: how long to wait for them, in seconds.
    silence_s: after how much silence `parallel/processes.py` ends this process;
      the service waits longer, and so does not end it first.
  """
  _wait_on_abort()
  jax.distributed.initialize(
    place.coordinator,
    place.count,
    place.index,
    place.local_devices,
    cluster_detection_method='deactivate',
    initialization_timeout=int(max(30, join_s)),
    heartbeat_timeout_seconds=int(max(100, 3 * silence_s)),
    shutdown_timeout_seconds=int(max(10, silence_s)),
  )
  return JoinedGroup(distributed.global_state.client, place.index, names)


def _wait_on_abort() -> None:
  """Gives the thread that watches the time to say which process is lost.

  When process 0 goes, the service's client calls abort(), some milliseconds
  before or after our channel closes. So SIGABRT (number 6) first calls C's
  sleep(6), and only then ends the process; by then the thread has ended it.
  """
  if threading.current_thread() is not threading.main_thread():
    return
  libc = ctypes.CDLL(None)
  libc.signal.restype = ctypes.c_void_p
  libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
  libc.signal(int(signal.SIGABRT), ctypes.cast(libc.sleep, ctypes.c_void_p))
