"""Batches by step: exact rates, whole epochs, any number of hosts."""

import threading
import time

import numpy as np
import pytest

from moejax.core import errors
from moejax.data import features, loader


class Numbered:
  """Rows that say which they are: target [domain, row]."""

  length = 2
  first_id = 0

  def __init__(self, domain, num_rows):
    self.domain, self.num_rows = domain, num_rows
    self.num_tokens = self.num_bytes = 2 * num_rows

  def rows(self, index_N):
    assert (index_N >= 0).all()
    assert (index_N < self.num_rows).all()
    target_NL = np.stack([np.full(len(index_N), self.domain), index_N], axis=1)
    return features.Rows(target_NL, np.ones_like(target_NL))


def _loader(sizes=(7, 100, 1500), rates=(1, 2, 5), batch_size=16, seed=0):
  readers = {f'd{n}': Numbered(n, size) for n, size in enumerate(sizes)}
  return loader.Loader(readers, rates, batch_size, seed)


def _places(made, start, stop):
  """Domain and row of every place of some steps."""
  batches = [made.batch(step).target_BL for step in range(start, stop)]
  return np.concatenate(batches).T


def test_a_batch_is_a_function_of_seed_and_step():
  made, again = _loader(), _loader()
  for step in (5, 0, 12_345_678_901, 5):
    np.testing.assert_array_equal(
      made.batch(step).target_BL, again.batch(step).target_BL
    )
  assert (made.batch(5).target_BL != made.batch(6).target_BL).any()
  other = _loader(seed=1)
  assert (made.batch(5).target_BL != other.batch(5).target_BL).any()


@pytest.mark.parametrize('hosts', [1, 2, 3, 16])
def test_hosts_together_read_the_batch(hosts):
  made = _loader(batch_size=16)
  for step in (0, 63, 64, 1000):
    cuts = np.linspace(0, 16, hosts + 1).astype(int)
    parts = [
      made.batch(step, slice(a, b)).target_BL
      for a, b in zip(cuts, cuts[1:], strict=False)
    ]
    np.testing.assert_array_equal(
      np.concatenate(parts), made.batch(step).target_BL
    )


def test_other_batch_sizes_read_the_same_line():
  """Two steps of 8 are one of 16."""
  big, small = _loader(batch_size=16), _loader(batch_size=8)
  np.testing.assert_array_equal(_places(big, 60, 70), _places(small, 120, 140))


def test_every_block_has_the_rates_exactly():
  made = _loader(rates=(1, 2, 5))
  domain_N, _ = _places(made, 0, 5 * 1024 // 16)
  for block in domain_N.reshape(5, 1024):
    np.testing.assert_array_equal(np.bincount(block), [128, 256, 640])
  first, second = domain_N.reshape(5, 1024)[:2]
  assert (first != second).mean() > 0.3  # in another order each time


def test_domains_are_mixed_evenly_within_a_block():
  domain_N, _ = _places(_loader(rates=(1, 1, 1)), 0, 64)
  for part in domain_N.reshape(8, 128):
    assert np.bincount(part, minlength=3).min() > 20  # 43 by chance


@pytest.mark.parametrize(
  ('rates', 'quotas'),
  [
    ((1, 1, 1, 1, 1), [205, 205, 205, 205, 204]),
    ((2, 1), [683, 341]),
    ((1e9, 1e-9), [1023, 1]),
    ((3,), [1024]),
    ((1,) * 1024, [1] * 1024),
  ],
)
def test_quotas_round_to_the_block_and_leave_nothing_out(rates, quotas):
  found = loader._quotas(np.array(rates, float))
  np.testing.assert_array_equal(found, quotas)


def test_every_row_comes_once_in_every_epoch():
  """Epochs of a domain do not end at blocks; draws are counted through."""
  made = _loader(sizes=(7, 100, 1500), rates=(1, 2, 5))
  domain_N, row_N = _places(made, 0, 6 * 1024 // 16)
  for domain, size in enumerate((7, 100, 1500)):
    drawn_N = row_N[domain_N == domain]
    epochs = drawn_N[: len(drawn_N) // size * size].reshape(-1, size)
    assert len(epochs) >= 2
    for epoch in epochs:
      np.testing.assert_array_equal(np.sort(epoch), np.arange(size))
    # Of 7 rows there are only 5040 orders, and 109 epochs.
    assert len({tuple(epoch) for epoch in epochs}) > 0.95 * len(epochs)
    rest = drawn_N[len(epochs) * size :]
    assert len(set(rest.tolist())) == len(rest)


GOLDEN = [[2, 540], [2, 210], [1, 59], [2, 1337], [2, 850], [0, 6]]


def test_the_order_of_a_run_never_changes():
  """Golden: with other numbers, old runs would resume on other rows."""
  target_BL = _loader(seed=3).batch(1000, slice(0, 6)).target_BL
  assert target_BL.tolist() == GOLDEN


def test_bad_input_is_one_line():
  with pytest.raises(errors.InputError, match="'d1' has no rows"):
    _loader(sizes=(5, 0), rates=(1, 1))
  with pytest.raises(errors.InputError, match="'d0' has rate -1"):
    _loader(sizes=(5, 5), rates=(-1, 1))
  with pytest.raises(errors.InputError, match='batch_size=0'):
    _loader(batch_size=0)


def _data_threads():
  return [t for t in threading.enumerate() if t.name == 'moejax-data']


def test_reading_ahead_gives_the_same_batches_and_ends_its_thread():
  made = _loader()
  batches = made.iterate(7, slice(2, 5), depth=3)
  for step in range(7, 30):
    np.testing.assert_array_equal(
      next(batches).target_BL, made.batch(step, slice(2, 5)).target_BL
    )
  assert len(_data_threads()) == 1
  batches.close()
  assert not _data_threads()


def test_dropping_the_iterator_ends_its_thread():
  batches = _loader().iterate(0)
  next(batches)
  del batches
  assert not _data_threads()
  unused = _loader().iterate(0)
  assert not _data_threads()
  unused.close()


def test_an_error_while_reading_ahead_comes_out_at_its_batch():
  made = _loader()
  good = made.batch

  def batch(step, rows=None):
    if step == 3:
      raise errors.InputError('the disk is gone')
    return good(step, rows)

  made.batch = batch
  batches = made.iterate(0)
  for _ in range(3):
    next(batches)
  with pytest.raises(errors.InputError, match='the disk is gone'):
    next(batches)
  assert not _data_threads()


def test_reading_ahead_stops_at_its_depth():
  made = _loader()
  good, asked = made.batch, []
  made.batch = lambda step, rows: asked.append(step) or good(step, rows)
  batches = made.iterate(0, depth=2)
  next(batches)
  time.sleep(0.2)
  assert len(asked) <= 4  # one taken, two ready, one in hand
  batches.close()


@pytest.mark.parametrize('batch_size', [1, 3, 7, 10])
def test_evaluation_reads_every_row_once_in_order(batch_size):
  reader = Numbered(4, 7)
  batches = list(loader.eval_batches(reader, batch_size))
  assert {b.target_BL.shape for b in batches} == {(batch_size, 2)}
  weight_BL = np.concatenate([b.weight_BL for b in batches])
  target_BL = np.concatenate([b.target_BL for b in batches])
  real_B = weight_BL.all(axis=1)
  assert weight_BL.sum() == reader.num_tokens
  np.testing.assert_array_equal(target_BL[real_B][:, 1], np.arange(7))
  assert not real_B[7:].any()


def test_evaluation_is_shared_between_hosts():
  reader = Numbered(4, 7)
  halves = [
    loader.eval_batches(reader, 4, s) for s in (slice(0, 2), slice(2, 4))
  ]
  for whole, *parts in zip(
    loader.eval_batches(reader, 4), *halves, strict=True
  ):
    np.testing.assert_array_equal(
      whole.segment_BL, np.concatenate([p.segment_BL for p in parts])
    )
