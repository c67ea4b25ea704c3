"""Processes as threads: what they say to each other, without JAX."""

import socket
import threading
import time

import pytest
from helpers import as_threads

from moejax.core import errors
from moejax.parallel import group, wire


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
  """`Left` ends threads on purpose."""
  monkeypatch.setattr(threading, 'excepthook', lambda args: None)
  # Threads that left keep their links open; processes do not.
  monkeypatch.setattr(group, 'LEAVE_S', 0.3)


def test_all_come_and_process_0_tells():
  with as_threads.groups(3) as (cluster, (first, *_)):
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
  with as_threads.groups(3) as (_, groups):

    def work(index):
      def slow():
        if not index:
          time.sleep(0.3)
        order.append(index)
        return index

      one = groups[index]
      return one.first('x', slow), one.told('y', lambda: [index])

    assert as_threads.each(3, work) == [(0, [0]), (1, [0]), (2, [0])]
    assert order[0] == 0


def test_what_each_gives_is_gathered_in_their_order():
  with as_threads.groups(3) as (_, groups):

    def work(index):
      time.sleep(0.1 * (2 - index))
      first = groups[index].gather('x', [index, 'a'])
      return first, groups[index].gather('x', None if index else 5)

    want = [[0, 'a'], [1, 'a'], [2, 'a']], [5, None, None]
    assert as_threads.each(3, work) == [want] * 3
    assert as_threads.each(3, lambda i: groups[i].told('y', list)) == [[]] * 3
    # A long run asks often, and lists of files are long: nothing is kept.
    for one in groups:
      assert not one._values
      assert not one._given


def test_a_barrier_opens_when_all_have_come():
  with as_threads.groups(3) as (_, groups):
    came = []

    def work(index):
      time.sleep(0.1 * index)
      came.append(index)
      groups[index].barrier('x', deadline_s=5)
      return len(came)

    assert as_threads.each(3, work) == [3, 3, 3]


def test_a_barrier_has_a_deadline_and_names_the_missing():
  with as_threads.groups(4) as (_, groups):
    began = time.monotonic()
    come = lambda i: groups[i].barrier('x', 0.5) if i in {0, 2} else None
    found = as_threads.each(4, come)
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
  with as_threads.groups(3) as (_, groups):
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

    found = as_threads.each(3, work)
    # The wish that process 0 hears of first counts.
    asked = {5, 6} if both else {5}
    assert found[0][0] - group.AHEAD in asked
    assert found == [(found[0][0], 'SIGINT')] * 3


@pytest.mark.parametrize('victim', [0, 2])
def test_a_link_that_closes_ends_all(victim):
  with as_threads.groups(3) as (cluster, groups):
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
  with as_threads.groups(3, silence_s=0.8) as (cluster, groups):
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
  with as_threads.groups(3) as (cluster, groups):
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
  with as_threads.groups(3) as (cluster, groups):

    def work(index):
      time.sleep(0.2 * index)
      groups[index].fail('error: no file', 2)

    as_threads.each(3, work)
    time.sleep(group.GRACE_S + 0.5)
    assert cluster.left == {}


def test_an_orderly_end_is_no_loss():
  with as_threads.groups(3) as (cluster, groups):

    def work(index):
      groups[index].close()
      for link in groups[index].members.links.values():
        link.close()

    assert as_threads.each(3, work) == [None] * 3
    time.sleep(0.3)
    assert cluster.left == {}


def test_who_never_comes():
  cluster = as_threads.Cluster(4, join_s=1.0)
  found = as_threads.each(3, lambda index: cluster.members([0, 2, 1][index]))
  assert [type(e) for e in found] == [errors.LostHostError] * 3
  (line,) = {str(e) for e in found}
  host = socket.gethostname()
  assert line == (
    f'after 1 s process 3 of 4 had not come to {cluster.place}; there were: '
    f'0 ({host}), 1 ({host}), 2 ({host})'
  )


def test_two_of_the_same_number():
  cluster = as_threads.Cluster(3, join_s=3.0)
  found = as_threads.each(3, lambda index: cluster.members([0, 1, 1][index]))
  (refused,) = [e for e in found if isinstance(e, errors.InputError)]
  assert str(refused).startswith('--process-id=1 is taken (')


@pytest.mark.soak
def test_one_that_runs_something_else():
  cluster = as_threads.Cluster(3)
  about = [as_threads.ABOUT, as_threads.ABOUT, {'jax': '2'}]
  found = as_threads.each(3, lambda index: cluster.members(index, about[index]))
  assert [type(e) for e in found[::2]] == [errors.InputError] * 2
  assert 'does not fit process 0: jax is 2 there and 1 here' in str(found[0])


def test_one_that_is_started_again_before_all_are_there():
  cluster = as_threads.Cluster(3)

  def work(index):
    if index != 1:
      time.sleep(0.8 * (index == 2))
      return cluster.members(index)
    hello = {'hello': 1, 'host': 'old', 'about': as_threads.ABOUT}
    port = int(cluster.place.rpartition(':')[2])
    until = time.monotonic() + 5
    wire.connect('127.0.0.1', port, until, lambda: hello).close()
    time.sleep(0.3)
    return cluster.members(1)

  found = as_threads.each(3, work)
  assert [m.index for m in found] == [0, 1, 2]
  assert 'Process 1 (old) has gone again.' in cluster.said


def test_strangers_are_turned_away():
  cluster = as_threads.Cluster(2)
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

  first, second, _ = as_threads.each(3, work)
  assert (first.index, second.index) == (0, 1)
