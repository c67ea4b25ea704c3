"""Hashes and permutations: bijections, different by key, the same for ever."""

import numpy as np
import pytest

from moejax.data import shuffle


@pytest.mark.parametrize(
  'size', [1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 4096, 4097]
)
def test_a_permutation_hits_every_index_once(size):
  for seed in range(5):
    out_N = shuffle.permute(np.arange(size), size, shuffle.key(seed))
    np.testing.assert_array_equal(np.sort(out_N), np.arange(size))


def test_indices_do_not_depend_on_which_others_are_asked_for():
  key = shuffle.key(3)
  whole_N = shuffle.permute(np.arange(777), 777, key)
  for index in (0, 5, 776):
    assert shuffle.permute(np.array([index]), 777, key)[0] == whole_N[index]


def test_each_index_has_its_own_key():
  key_N = shuffle.key(0, np.array([4, 5, 4, 5]))
  out_N = shuffle.permute(np.array([9, 9, 10, 10]), 50, key_N)
  for n, (index, epoch) in enumerate([(9, 4), (9, 5), (10, 4), (10, 5)]):
    one = shuffle.permute(np.array([index]), 50, shuffle.key(0, epoch))
    assert out_N[n] == one[0]


def test_permutations_look_random():
  """Where index 0 goes is spread evenly, and neighbours do not stay so."""
  keys = shuffle.key(1, np.arange(6400))
  first_N = shuffle.permute(np.zeros(6400, int), 64, keys)
  count = np.bincount(first_N, minlength=64)  # 100 each, deviation 10
  assert count.min() > 55
  assert count.max() < 145
  out_N = shuffle.permute(np.arange(10_000), 10_000, shuffle.key(2))
  assert (np.abs(np.diff(out_N)) < 100).mean() < 0.04  # 2% by chance
  assert (out_N == np.arange(10_000)).sum() < 10


def test_a_size_of_more_than_32_bits():
  size = 2**40
  out_N = shuffle.permute(np.arange(1000), size, shuffle.key(0))
  assert len(set(out_N.tolist())) == 1000
  assert out_N.min() >= 0
  assert out_N.max() < size
  assert out_N.max() > size // 2


def test_order_is_a_permutation_by_key():
  one, other = (shuffle.order(1024, shuffle.key(k)) for k in (1, 2))
  np.testing.assert_array_equal(np.sort(one), np.arange(1024))
  assert (one == other).mean() < 0.01


def test_keys_differ_by_every_part():
  keys = {
    int(shuffle.key(a, b, c)[0])
    for a in (-1, 0, 1, 2**63)
    for b in (0, 1)
    for c in (0, 1)
  }
  assert len(keys) == 16


def test_the_order_of_a_run_never_changes():
  """Golden: with other numbers, old runs would resume on other rows.

  The first is SplitMix64's published first output for seed 0.
  """
  assert hex(int(shuffle.mix(np.array([0]))[0])) == '0xe220a8397b1dcdaf'
  out_N = shuffle.permute(np.arange(8), 1000, shuffle.key(0, 1, 2))
  assert out_N.tolist() == [980, 640, 418, 816, 271, 707, 643, 22]
  assert shuffle.order(8, shuffle.key(5)).tolist() == [3, 1, 6, 2, 4, 5, 7, 0]
