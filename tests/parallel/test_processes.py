"""How processes meet, and end together, with threads for them: without JAX."""

import socket
import threading
import time

import pytest
from helpers import as_threads

from moejax.core import errors, exits
from moejax.parallel import processes


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
  """`Left` ends threads on purpose."""
  monkeypatch.setattr(threading, 'excepthook', lambda args: None)
  # Threads that left keep their channels open; processes do not.
  monkeypatch.setattr(processes, 'LEAVE_S', 0.3)


def test_all_come_and_process_0_tells():
  host = socket.gethostname()
  cluster = as_threads.Cluster(3)
  found = as_threads.each(3, cluster.members)
  names = [f'process {i} ({host})' for i in range(3)]
  assert [one.names for one in found] == [names] * 3
  assert [sorted(one.channels) for one in found] == [[1, 2], [0], [0]]
  begin, *others = cluster.said
  assert begin == (
    f'Process 0 of 3 ({host}) waits for the others at {cluster.place}.'
  )
  names = {line.partition(' of 3')[0] for line in others}
  assert names == {'Process 1', 'Process 2'}


@pytest.mark.parametrize('victim', [0, 2])
def test_a_channel_that_closes_ends_all(victim):
  with as_threads.watches(3) as (cluster, watches):
    watches[victim]._watched.clear()
    as_threads.disappear(watches[victim])
    rest = {0, 1, 2} - {victim}
    for line, code in cluster.wait_until_left(*rest):
      assert line.startswith(f'process {victim} (')
      assert 'was killed, or has crashed' in line
      assert code == exits.LOST


@pytest.mark.parametrize('victim', [0, pytest.param(1, marks=pytest.mark.soak)])
def test_silence_ends_all(victim):
  with as_threads.watches(3, silence_s=0.8) as (cluster, watches):
    watches[victim]._watched.clear()  # its thread ends; its channels stay open
    rest = {0, 1, 2} - {victim}
    for line, code in cluster.wait_until_left(*rest):
      assert line.startswith(f'process {victim} (')
      assert 'has been silent for 0.8 s' in line
      assert code == exits.LOST


@pytest.mark.parametrize(
  ('code', 'passed', 'victim'),
  [
    (2, exits.LOST, 0),
    (75, 75, 1),
    pytest.param(2, exits.LOST, 1, marks=pytest.mark.soak),
    pytest.param(75, 75, 0, marks=pytest.mark.soak),
  ],
)
def test_one_that_fails_says_why(victim, code, passed):
  with as_threads.watches(3) as (cluster, watches):
    watches[victim].fail('error: no file', code)
    as_threads.disappear(watches[victim])
    rest = {0, 1, 2} - {victim}
    for line, got in cluster.wait_until_left(*rest):
      assert line.startswith(f'process {victim} (')
      assert line.endswith(') stopped: error: no file')
      assert got == passed


def test_an_error_of_all_is_each_ones_own():
  """A config that is wrong everywhere is said so everywhere."""
  with as_threads.watches(3) as (cluster, watches):

    def work(index):
      time.sleep(0.2 * index)
      watches[index].fail('error: no file', 2)

    as_threads.each(3, work)
    time.sleep(processes.GRACE_S + 0.5)
    assert cluster.left == {}


def test_an_orderly_end_is_no_loss():
  with as_threads.watches(3) as (cluster, watches):

    def work(index):
      watches[index].close()
      time.sleep(0.1 * index)
      as_threads.disappear(watches[index])

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
  cluster = as_threads.Cluster(3, join_s=1.0)
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


def _stranger(cluster):
  host, _, port = cluster.place.rpartition(':')
  until = time.monotonic() + 5
  while time.monotonic() < until:
    try:
      return socket.create_connection((host, int(port)), 5)
    except OSError:
      time.sleep(0.05)
  raise AssertionError('nobody listens')


def test_one_that_is_started_again_before_all_are_there():
  cluster = as_threads.Cluster(3)

  def work(index):
    if index != 1:
      time.sleep(0.8 * (index == 2))
      return cluster.members(index)
    channel = processes.Channel(_stranger(cluster))
    channel.send(hello=1, host='old', about=as_threads.ABOUT)
    channel.close()
    time.sleep(0.3)
    return cluster.members(1)

  found = as_threads.each(3, work)
  assert [m.number for m in found] == [0, 1, 2]
  assert 'Process 1 (old) has gone again.' in cluster.said


def test_strangers_are_turned_away():
  cluster = as_threads.Cluster(2)

  def work(index):
    if index != 2:
      time.sleep(0.5 * index)
      return cluster.members(index)
    words = (
      b'GET / HTTP/1.1\r\n\r\n',
      b'\0\0\0\2[]',
      b'\0\0\0\5[1, 2',
      b'\0\0\0\x0e{"hello": "x"}',
    )
    return [_stranger(cluster).sendall(word) for word in words]

  first, second, _ = as_threads.each(3, work)
  assert (first.number, second.number) == (0, 1)


def test_a_port_that_is_taken_is_one_line():
  with socket.create_server(('', 0)) as taken:
    cluster = as_threads.Cluster(2)
    cluster.place = f'127.0.0.1:{taken.getsockname()[1]}'
    with pytest.raises(errors.InputError, match='cannot be opened here'):
      cluster.members(0)
