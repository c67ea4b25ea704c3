"""Work that all processes share, with processes as threads."""

import errno

from helpers import as_threads

from moejax.core import files
from moejax.parallel import alone, sharing


def _by_three(work, items):
  """What each of three processes gets; `work` is given its number, too."""
  with as_threads.groups(3) as (_, groups):

    def one(index):
      spread = sharing.by_all(groups[index], 'x')
      return spread(
        lambda item: work(index, item), lambda: items if not index else 1 / 0
      )

    return as_threads.each(3, one)


def test_each_works_on_its_share_and_all_have_everything(monkeypatch):
  monkeypatch.setattr(sharing, 'MOST', 4)
  did = []

  def work(index, item):
    did.append((index, item))
    return item * item

  items = [*range(10)]
  found = _by_three(work, items)
  assert found == [[i * i for i in items]] * 3
  # In messages of four: 0 1 2 0, 0 1 2 0, 0 1.
  want = [(at % 4 % 3, item) for at, item in enumerate(items)]
  assert sorted(did) == sorted(want)


def test_nothing_is_no_work():
  assert _by_three(lambda *_: 1 / 0, []) == [[], [], []]


def test_an_error_in_one_is_raised_in_all():
  def work(index, item):
    if item == 1:
      raise OSError(errno.ENOSPC, 'No space left on device', 'a/file')
    return item

  for error in _by_three(work, [0, 1, 2, 3]):
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOSPC
    assert error.strerror == 'No space left on device'


def test_one_process_shares_nothing():
  assert sharing.by_all(alone.ALONE, 'x') is files.here
