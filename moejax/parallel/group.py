"""JAX's coordination service: its start, and what processes share by it.

A `Group` lets the processes of a run share values, meet at barriers, and agree
on the step to stop after. It uses the barriers and the key-value store of the
service. These do not use the devices, so a thread may call them while a step
computes. (The collectives of `multihost_utils`, and Orbax's broadcast, which is
made of them, need every device of every process, in one order.)

A process that waits here waits for as long as all processes live. When a
process is lost, `parallel/processes.py` ends the waiting one.

This is the one file that imports `jax._src`: JAX has no public access to the
store of its service, nor to the place that a cluster's launcher has given to
this process.
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

from moejax.core import errors, manifest

T = TypeVar('T')
# If one process gets a signal during step s, all stop after step s + AHEAD. No
# process is more than one step ahead of another: before it begins step n it has
# fetched the results of step n - 2, which all processes had to compute.
AHEAD = 2
FOREVER_MS = 10**11  # three years
STOP = 'moejax/stop'  # key and barrier of the agreed stop


class Group:
  """The processes of a run; this class is a run of one, which never waits.

  The methods take a name that says what is shared. All processes must make the
  same calls under each name, in the same order. Values are JSON.

  Attributes:
    index: index of this process.
    count: number of processes.
  """

  index, count = 0, 1

  def gather(self, name: str, value: Any) -> list[Any]:
    """Returns the values of all processes, in their order, to each of them."""
    del name
    return [value]

  def barrier(self, name: str, deadline_s: float | None = None) -> None:
    """Waits until all processes have called this method.

    Args:
      name: name of the barrier.
      deadline_s: longest time to wait, in seconds; None waits as long as all
        processes live.

    Raises:
      LostHostError: the deadline has passed. It is raised in all processes, and
        names those that had not come.
    """

  def agree(self, signal_name: str | None, step: int) -> str | None:
    """The signal that stops all processes after this step, or None.

    Every process calls this after each step. Example, SIGINT to process 1 in
    step 4:
      process 0  ... 4: None    5: None  6: 'SIGINT'
      process 1  ... 4: None    5: None  6: 'SIGINT'

    Args:
      signal_name: name of the signal that this process has received, or None.
      step: number of the step that has ended.
    """
    del step
    return signal_name

  def broadcast(self, name: str, work: Callable[[], Any]) -> Any:
    """Calls `work` in process 0, and returns its result to all processes."""
    return self.gather(name, None if self.index else work())[0]

  def main_first(self, name: str, work: Callable[[], T]) -> T:
    """Calls `work` in process 0 first, and then in all others at once.

    For work that is slow the first time and quick once its result is on disk.
    """
    if self.index:
      self.barrier(name)
      return work()
    result = work()
    self.barrier(name)
    return result

  def spread(self, name: str) -> manifest.Spread:
    """A `Spread` that shares many items out among all processes.

    An OSError in one process is raised in all. Example, 5 items, 2 processes:
      process 0  makes the items, works on 0 2 4
      process 1                   works on 1 3
    """
    if self.count == 1:
      return manifest.in_threads

    def spread(
      work: Callable[[Any], T], items: Callable[[], list[Any]]
    ) -> list[T]:
      all_items = self.broadcast(f'{name}, items', items)
      own_items = all_items[self.index :: self.count]
      own_results, problem = [], None
      try:
        own_results = manifest.in_threads(work, lambda: own_items)
      except OSError as error:
        problem = [error.errno, error.strerror or str(error)]
      shares = self.gather(f'{name}, results', [own_results, problem])
      if problem := next(filter(None, (p for _, p in shares)), None):
        raise OSError(*problem)
      results = [*all_items]
      for index, (share, _) in enumerate(shares):
        results[index :: self.count] = share
      return results

    return spread


SINGLE = Group()


class JoinedGroup(Group):
  """The processes that JAX's coordination service has joined.

  Args:
    client: the service's client.
    index: index of this process.
    names: names of all processes for messages, such as 'process 1 (node1)'.
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
    """Returns the values of all processes; see `Group.gather`."""
    return self._meet(name, value)

  def barrier(self, name: str, deadline_s: float | None = None) -> None:
    """Waits until all processes have come; see `Group.barrier`."""
    self._meet(name, None, deadline_s)

  def agree(self, signal_name: str | None, step: int) -> str | None:
    """The signal that stops all processes after this step; see `Group.agree`.

    A call takes no time until a process has a signal. That process waits until
    all have read it from the store.
    """
    if signal_name and self._stop is None:
      # The store refuses a second value: another process was first.
      with contextlib.suppress(JaxRuntimeError):
        self._client.key_value_set(
          STOP, json.dumps([signal_name, step + AHEAD])
        )
      self._all_know.wait()
    stop = self._stop
    return stop[0] if stop and step >= stop[1] else None

  def _hear_of_stop(self) -> None:
    """Waits, in a thread, for the agreed signal and step."""
    # The service raises if the run ends without a stop.
    with contextlib.suppress(JaxRuntimeError):
      stop = self._client.blocking_key_value_get(STOP, FOREVER_MS)
      self._stop = tuple(json.loads(stop))
      self._client.wait_at_barrier(STOP, FOREVER_MS)
      self._all_know.set()

  def _meet(
    self, name: str, value: Any, deadline_s: float | None = None
  ) -> list[Any]:
    """Stores a value, waits until all processes have done so, and reads all.

    Each call of a name is a round. After round n process 0 deletes the values
    of round n - 1, which all processes have read by then.
    """
    self._rounds[name] += 1
    folder = f'moejax/{name}/{self._rounds[name]}'
    wait_ms = FOREVER_MS if deadline_s is None else int(1000 * deadline_s)
    self._client.key_value_set(f'{folder}/{self.index}', json.dumps(value))
    wait = self._calls.submit(self._client.wait_at_barrier, folder, wait_ms)
    try:
      # The wait is in a thread of its own: the service's wait blocks Ctrl-C.
      wait.result()
    except JaxRuntimeError as error:
      if deadline_s is None or 'DEADLINE_EXCEEDED' not in str(error):
        raise
      # A process that comes after the others have given up finds the values of
      # all, and names itself.
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
  """Which process of a run this is, and where process 0 is.

  Attributes:
    coordinator: host:port of process 0.
    count: number of processes.
    index: index of this process.
    local_devices: devices of this process by their local index; None means all
      of the machine.
  """

  coordinator: str
  count: int
  index: int
  local_devices: tuple[int, ...] | None = None

  @property
  def address(self) -> tuple[str, int]:
    """Host and port of process 0.

    Raises:
      InputError: `coordinator` is not host:port.
    """
    host, _, port = self.coordinator.rpartition(':')
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
      raise errors.InputError(
        f'--coordinator={self.coordinator} must be host:port of process 0, '
        'such as node1:9876'
      )
    return host.strip('[]'), int(port)


def detect(patience_s: float) -> Place | None:
  """The place that a cluster's launcher has given to this process, or None.

  JAX knows TPU pods, Slurm, Kubernetes and Open MPI. It uses the network only
  on a TPU, for at most `patience_s` seconds. None stands for no cluster, or a
  run of one process.

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
  """Starts JAX's service among processes that have met (`processes.meet`).

  To be called before JAX is asked for any device.

  Args:
    place: place of this process.
    names: names of all processes for messages.
    join_s: longest time to wait for all processes, in seconds.
    silence_s: seconds of silence after which `parallel/processes.py` takes a
      process for lost. The service's own timeout is longer, so that it does not
      end this process first.
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
  """Delays an abort until the thread of `processes.Watch` has printed its line.

  When process 0 is lost, the service's client calls abort(), some milliseconds
  before or after our channel closes. So C's sleep becomes the handler of
  SIGABRT: called with the signal's number it sleeps for 6 seconds. In this time
  the thread ends the process.
  """
  if threading.current_thread() is not threading.main_thread():
    return
  libc = ctypes.CDLL(None)
  libc.signal.restype = ctypes.c_void_p
  libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
  libc.signal(int(signal.SIGABRT), ctypes.cast(libc.sleep, ctypes.c_void_p))
