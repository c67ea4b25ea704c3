"""Processes of a run as threads of one process."""

import contextlib
import threading
import time

from jax._src.lib import _jax

from helpers import processes as real
from moejax.parallel import processes
from moejax.parallel.group import JoinedGroup, Place

ABOUT = {'jax': '1'}


class Left(Exception):  # noqa: N818 (it is no error)
  """Raised where a real process would end."""


class Cluster:
  """A number of processes that meet and watch each other over real sockets."""

  def __init__(self, count, *, join_s=10.0, silence_s=1.0):
    self.place = f'127.0.0.1:{real.free_port()}'
    self.count, self.said, self.left = count, [], {}
    self.join_s, self.silence_s = join_s, silence_s

  def members(self, index, about=None):
    place = Place(self.place, self.count, index)
    about = about or ABOUT
    return processes.meet(place, self.join_s, about, self.said.append)

  def watch(self, index):
    def leave(line, code):
      self.left[index] = (line, code)
      raise Left  # ends the thread, as os._exit ends the process

    return processes.Watch(self.members(index), self.silence_s, leave)

  def wait_until_left(self, *who):
    deadline = time.monotonic() + 15
    while not {*who} <= {*self.left}:
      assert time.monotonic() < deadline, (who, self.left)
      time.sleep(0.01)
    return [self.left[index] for index in who]


def each(count, work):
  """Calls `work(index)` in `count` threads; returns its results or errors."""
  results = [None] * count

  def run(index):
    try:
      results[index] = work(index)
    except Exception as e:  # noqa: BLE001 (the test looks at it)
      results[index] = e

  threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(60)
  return results


def disappear(watch):
  """Closes a process's channels, as the end of the process would.

  Its watching thread then sends nothing more.
  """
  watch._ending.set()
  for channel in watch._channels.values():
    with contextlib.suppress(OSError):
      channel.close()


@contextlib.contextmanager
def watches(count, **options):
  """A cluster, and the watch of each process."""
  cluster = Cluster(count, **options)
  members = each(count, cluster.watch)
  assert all(isinstance(x, processes.Watch) for x in members), members
  try:
    yield cluster, members
  finally:
    for watch in members:
      watch._watched.clear()
      watch._thread.join(5)
      disappear(watch)


class _Late:
  def __init__(self, client):
    self._client = client

  def __getattr__(self, name):
    return getattr(self._client, name)

  def blocking_key_value_get(self, key, timeout_ms):
    value = self._client.blocking_key_value_get(key, timeout_ms)
    time.sleep(0.3)
    return value


@contextlib.contextmanager
def groups(count, late=None):
  """The group of each process, on one coordination service of JAX.

  Args:
    count: processes.
    late: number of a process that gets the values of others with a delay.
  """
  port = real.free_port()
  service = _jax.get_distributed_runtime_service(f'127.0.0.1:{port}', count)
  clients = [
    _jax.get_distributed_runtime_client(
      f'127.0.0.1:{port}', index, shutdown_on_destruction=False
    )
    for index in range(count)
  ]
  assert each(count, lambda i: clients[i].connect()) == [None] * count
  names = [f'process {index} (host)' for index in range(count)]
  try:
    yield [
      JoinedGroup(_Late(client) if index == late else client, index, names)
      for index, client in enumerate(clients)
    ]
  finally:
    each(count, lambda i: clients[i].shutdown())
    service.shutdown()
