"""What processes share by JAX's coordination service, with threads for them."""

import errno
import time

import pytest
from helpers import as_threads

from moejax.core import errors, manifest
from moejax.parallel import group


@pytest.fixture(scope='module')
def three():
  """Groups of three processes, for tests that leave nothing behind."""
  with as_threads.groups(3) as groups:
    yield groups


def test_process_0_comes_first_and_the_others_after(three):
  order = []

  def work(index):
    def slow():
      if not index:
        time.sleep(0.3)
      order.append(index)
      return index

    return three[index].main_first('slow', slow)

  assert as_threads.each(3, work) == [0, 1, 2]
  assert order[0] == 0


def test_what_process_0_computes_is_broadcast(three):
  work = lambda i: three[i].broadcast('x', lambda: [i, None, 'a'])
  assert as_threads.each(3, work) == [[0, None, 'a']] * 3
  nothing = lambda i: three[i].broadcast('x', lambda: None)
  assert as_threads.each(3, nothing) == [None] * 3


def test_values_are_gathered_in_the_order_of_processes(three):
  def work(index):
    time.sleep(0.1 * (2 - index))
    first = three[index].gather('x y', [index, 'a'])
    return first, three[index].gather('x y', None if index else 5)

  want = [[0, 'a'], [1, 'a'], [2, 'a']], [5, None, None]
  assert as_threads.each(3, work) == [want] * 3


def test_values_of_one_round_are_kept_and_no_more(three):
  """A long run asks often, and lists of files are long."""
  ask = lambda i: [three[i].gather('often', 'a' * 10**6) for _ in range(12)]
  assert as_threads.each(3, ask) == [[['a' * 10**6] * 3] * 12] * 3
  kept = three[0]._client.key_value_dir_get('moejax/often/')
  assert {key for key, _ in kept} == {f'moejax/often/12/{i}' for i in range(3)}


def test_a_barrier_opens_when_all_have_come(three):
  came = []

  def work(index):
    time.sleep(0.1 * index)
    came.append(index)
    three[index].barrier('x', deadline_s=5)
    return len(came)

  assert as_threads.each(3, work) == [3, 3, 3]


def test_a_barrier_has_a_deadline_and_names_the_missing():
  with as_threads.groups(4) as groups:
    began = time.monotonic()
    come = lambda i: groups[i].barrier('x', 0.5) if i in {0, 2} else None
    found = as_threads.each(4, come)
    assert time.monotonic() - began < 3
    for late, names in ((1, r'process 3 \(host\) had'), (3, 'process 3')):
      with pytest.raises(errors.LostHostError, match=f'60 s {names}'):
        groups[late].barrier('x', 60)
  for error in (found[0], found[2]):
    assert isinstance(error, errors.LostHostError)
    assert str(error) == (
      "after 0.5 s process 1 (host), process 3 (host) had not come to 'x'; see "
      'what they wrote last'
    )


@pytest.mark.parametrize('who', [0, 1])
@pytest.mark.parametrize('both', [False, True])
def test_all_stop_after_the_same_step(who, both):
  """Steps are one apart at most; one hears late, and may ask meanwhile."""
  with as_threads.groups(3, late=2) as groups:
    done = [0] * 3

    def work(index):
      for step in range(1, 20):
        done[index] = step  # begun; for its results all have to compute
        while min(done) < step - 1:
          time.sleep(0.001)
        asks = step >= (5 if index == who else 6 if both else 99)
        if name := groups[index].agree('SIGINT' if asks else None, step):
          done[index] = 99
          return step, name
      return None

    found = as_threads.each(3, work)
    # The wish that the service hears of first counts.
    asked = {5, 6} if both else {5}
    assert found[0][0] - group.AHEAD in asked
    assert found == [(found[0][0], 'SIGINT')] * 3


def test_a_run_of_one_waits_for_nothing():
  one = group.SINGLE
  assert (one.index, one.count) == (0, 1)
  assert one.gather('x', 5) == [5]
  assert one.broadcast('x', lambda: [1]) == [1]
  assert one.main_first('x', lambda: 2) == 2
  assert one.barrier('x', 0.1) is None
  assert one.agree(None, 3) is None
  assert one.agree('SIGINT', 3) == 'SIGINT'
  assert one.spread('x') is manifest.in_threads


def _spread(groups, work, items):
  """What each process gets; `work` is given its number, too."""

  def one(index):
    return groups[index].spread('y')(
      lambda item: work(index, item), lambda: items if not index else 1 / 0
    )

  return as_threads.each(len(groups), one)


def test_each_works_on_its_share_and_all_have_everything(three):
  did = []

  def work(index, item):
    did.append((index, item))
    return item * item

  items = [*range(10)]
  assert _spread(three, work, items) == [[i * i for i in items]] * 3
  assert sorted(did) == sorted((at % 3, item) for at, item in enumerate(items))


def test_nothing_is_no_work(three):
  assert _spread(three, lambda *_: 1 / 0, []) == [[], [], []]


def test_an_error_in_one_is_raised_in_all(three):
  def work(index, item):
    if item == 1:
      raise OSError(errno.ENOSPC, 'No space left on device', 'a/file')
    return item

  for error in _spread(three, work, [0, 1, 2, 3]):
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOSPC
    assert error.strerror == 'No space left on device'
