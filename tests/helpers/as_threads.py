"""Processes of a run as threads, with real links between them."""

import contextlib
import threading
import time

from helpers import processes
from moejax.parallel import group, lobby

ABOUT = {'jax': '1'}


class Left(Exception):  # noqa: N818 (it is no error)
  """Where a process would end."""


class Cluster:
  """So many members, each with its own end of a link."""

  def __init__(self, count, *, join_s=10.0, silence_s=1.0):
    self.place = f'127.0.0.1:{processes.free_port()}'
    self.count, self.said, self.left = count, [], {}
    self.join_s, self.silence_s = join_s, silence_s

  def members(self, index, about=None):
    place = lobby.Place(self.place, self.count, index)
    about = about or ABOUT
    if index:
      return lobby.knock(place, self.join_s, about)
    return lobby.receive(place, self.join_s, about, self.said.append)

  def group(self, index):
    def leave(line, code):
      self.left[index] = (line, code)
      raise Left  # ends the thread, as os._exit ends the process

    return group.Group(self.members(index), self.silence_s, leave)

  def wait_until_left(self, *who):
    deadline = time.monotonic() + 15
    while not {*who} <= {*self.left}:
      assert time.monotonic() < deadline, (who, self.left)
      time.sleep(0.01)
    return [self.left[index] for index in who]


def each(count, work):
  """What `work(index)` returns or raises in so many threads."""
  found = [None] * count

  def run(index):
    try:
      found[index] = work(index)
    except Exception as e:  # noqa: BLE001 (looked at by the test)
      found[index] = e

  threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(60)
  return found


@contextlib.contextmanager
def groups(count, **options):
  cluster = Cluster(count, **options)
  found = each(count, cluster.group)
  assert all(isinstance(g, group.Group) for g in found), found
  try:
    yield cluster, found
  finally:
    for one in found:
      one._closed.set()
    for one in found:
      for link in one.members.links.values():
        link.close()
