"""Processes as threads: what they say to each other, without JAX."""

import contextlib
import socket
import threading
import time

import pytest
from helpers import processes

from moejax.core import errors
from moejax.parallel import group, lobby, wire

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


def _all(count, work):
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
    thread.join(20)
  return found


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
  """`Left` ends threads on purpose."""
  monkeypatch.setattr(threading, 'excepthook', lambda args: None)
  # Threads that left keep their links open; processes do not.
  monkeypatch.setattr(group, 'LEAVE_S', 0.3)


@contextlib.contextmanager
def _groups(count, **options):
  cluster = Cluster(count, **options)
  found = _all(count, cluster.group)
  assert all(isinstance(g, group.Group) for g in found), found
  try:
    yield cluster, found
  finally:
    for one in found:
      one._closed.set()
      for link in one.members.links.values():
        link.close()


def test_all_come_and_process_0_tells():
  with _groups(3) as (cluster, (first, *_)):
    host = socket.gethostname()
    assert first.members.hosts == (host,) * 3
    begin, *others = cluster.said
    assert begin == (
      f'Process 0 of 3 ({host}) waits for the others at {cluster.place}.'
    )
    names = {line.partition(' of 3')[0] for line in others}
    assert names == {'Process 1', 'Process 2'}


def test_process_0_first_and_told():
  order = []
  with _groups(3) as (_, groups):

    def work(index):
      def slow():
        if not index:
          time.sleep(0.3)
        order.append(index)
        return index

      one = groups[index]
      return one.first('x', slow), one.told('y', lambda: [index])

    assert _all(3, work) == [(0, [0]), (1, [0]), (2, [0])]
    assert order[0] == 0


def test_a_barrier_opens_when_all_have_come():
  with _groups(3) as (_, groups):
    came = []

    def work(index):
      time.sleep(0.1 * index)
      came.append(index)
      groups[index].barrier('x', deadline_s=5)
      return len(came)

    assert _all(3, work) == [3, 3, 3]


def test_a_barrier_has_a_deadline_and_names_the_missing():
  with _groups(4) as (_, groups):
    began = time.monotonic()
    come = lambda i: groups[i].barrier('x', 0.5) if i in {0, 2} else None
    found = _all(4, come)
    assert time.monotonic() - began < 3
    host = socket.gethostname()
    for error in (found[0], found[2]):
      assert isinstance(error, errors.LostHostError)
      assert str(error) == (
        f'after 0.5 s process 1 ({host}), process 3 ({host}) had not come to '
        "'x'; see what they wrote last"
      )


@pytest.mark.parametrize('who', [0, 1])
@pytest.mark.parametrize('both', [False, True])
def test_all_stop_after_the_same_step(who, both):
  """Steps are one apart at most; one hears late, and may ask meanwhile."""
  with _groups(3) as (_, groups):
    done = [0] * 3
    take = groups[2]._take

    def late(index, message):
      time.sleep(0.3 * ('stop' in message))
      take(index, message)

    groups[2]._take = late

    def work(index):
      for step in range(1, 20):
        done[index] = step  # begun; for its results all have to compute
        while min(done) < step - 1:
          time.sleep(0.001)
        asks = step >= (5 if index == who else 6 if both else 99)
        if what := groups[index].agree('SIGINT' if asks else None, step):
          done[index] = 99
          return step, what
      return None

    found = _all(3, work)
    assert found == [(5 + group.AHEAD, 'SIGINT')] * 3


@pytest.mark.parametrize('victim', [0, 2])
def test_a_link_that_closes_ends_all(victim):
  with _groups(3) as (cluster, groups):
    one = groups[victim]
    one._closed.set()
    for link in one.members.links.values():
      link.close()
    rest = {0, 1, 2} - {victim}
    for line, code in cluster.wait_until_left(*rest):
      assert line.startswith(f'process {victim} (')
      assert 'was killed, or has crashed' in line
      assert code == group.LOST


@pytest.mark.parametrize('victim', [0, 1])
def test_silence_ends_all(victim, monkeypatch):
  with _groups(3, silence_s=0.8) as (cluster, groups):
    frozen = groups[victim]
    frozen._ending.set()  # its thread ends, and its links stay open
    rest = {0, 1, 2} - {victim}
    for line, code in cluster.wait_until_left(*rest):
      assert line.startswith(f'process {victim} (')
      assert 'has been silent for 0.8 s' in line
      assert code == group.LOST


@pytest.mark.parametrize('victim', [0, 1])
@pytest.mark.parametrize(('code', 'passed'), [(2, group.LOST), (75, 75)])
def test_one_that_fails_says_why(victim, code, passed):
  with _groups(3) as (cluster, groups):
    groups[victim].fail('error: no file', code)
    for link in groups[victim].members.links.values():
      link.close()
    rest = {0, 1, 2} - {victim}
    for line, got in cluster.wait_until_left(*rest):
      assert line.startswith(f'process {victim} (')
      assert line.endswith(') stopped: error: no file')
      assert got == passed


def test_an_error_of_all_is_each_ones_own():
  """A config that is wrong everywhere is said so everywhere."""
  with _groups(3) as (cluster, groups):

    def work(index):
      time.sleep(0.2 * index)
      groups[index].fail('error: no file', 2)

    _all(3, work)
    time.sleep(group.GRACE_S + 0.5)
    assert cluster.left == {}


def test_an_orderly_end_is_no_loss():
  with _groups(3) as (cluster, groups):

    def work(index):
      groups[index].close()
      for link in groups[index].members.links.values():
        link.close()

    assert _all(3, work) == [None] * 3
    time.sleep(0.3)
    assert cluster.left == {}


def test_who_never_comes():
  cluster = Cluster(4, join_s=1.0)
  found = _all(3, lambda index: cluster.members([0, 2, 1][index]))
  assert [type(e) for e in found] == [errors.LostHostError] * 3
  (line,) = {str(e) for e in found}
  host = socket.gethostname()
  assert line == (
    f'after 1 s process 3 of 4 had not come to {cluster.place}; there were: '
    f'0 ({host}), 1 ({host}), 2 ({host})'
  )


def test_two_of_the_same_number():
  cluster = Cluster(3, join_s=3.0)
  found = _all(3, lambda index: cluster.members([0, 1, 1][index]))
  (refused,) = [e for e in found if isinstance(e, errors.InputError)]
  assert str(refused).startswith('--process-id=1 is taken (')


def test_one_that_runs_something_else():
  cluster = Cluster(3)
  about = [ABOUT, ABOUT, {'jax': '2'}]
  found = _all(3, lambda index: cluster.members(index, about[index]))
  assert [type(e) for e in found[::2]] == [errors.InputError] * 2
  assert 'does not fit process 0: jax is 2 there and 1 here' in str(found[0])


def test_one_that_is_started_again_before_all_are_there():
  cluster = Cluster(3)

  def work(index):
    if index != 1:
      time.sleep(0.8 * (index == 2))
      return cluster.members(index)
    hello = {'hello': 1, 'host': 'old', 'about': ABOUT}
    port = int(cluster.place.rpartition(':')[2])
    until = time.monotonic() + 5
    wire.connect('127.0.0.1', port, until, lambda: hello).close()
    time.sleep(0.3)
    return cluster.members(1)

  found = _all(3, work)
  assert [m.index for m in found] == [0, 1, 2]
  assert 'Process 1 (old) has gone again.' in cluster.said


def test_strangers_are_turned_away():
  cluster = Cluster(2)
  port = int(cluster.place.rpartition(':')[2])

  def work(index):
    if index != 2:
      time.sleep(0.5 * index)
      return cluster.members(index)
    link = None
    for word in (b'GET / HTTP/1.1\r\n\r\n', b'[]\n', b'{"hello": "x"}\n'):
      link = wire.connect('127.0.0.1', port, time.monotonic() + 5, dict)
      link._socket.sendall(word)
    return None

  first, second, _ = _all(3, work)
  assert (first.index, second.index) == (0, 1)
