import jax.numpy as jnp
import numpy as np

from moejax.moe.routers import hashing


def finish(x):
  """MurmurHash3's last step with Python's integers."""
  x = (x ^ x >> 16) * 0x85EBCA6B % 2**32
  x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
  return x ^ x >> 16


def test_against_whole_numbers_of_any_size():
  assert finish(1) == 0x514E28B7  # what the original's users publish
  a_T = np.array([0, 1, 2, 77, 2**31 - 1])
  want = [finish(finish(finish(0x9E3779B9 ^ 3) ^ a) ^ 9) for a in a_T.tolist()]
  np.testing.assert_array_equal(hashing.mix(3, jnp.asarray(a_T), 9), want)


def test_every_part_counts_and_none_collides():
  """A step that loses bits would give fewer different results."""
  a, b = jnp.arange(300)[:, None], jnp.arange(300)
  assert len(np.unique(hashing.mix(5, a, 8)[:, 0])) == 300
  assert len(np.unique(hashing.mix(5, a, b))) > 89_990
  assert (hashing.mix(5, a, b) != hashing.mix(5, b, a)).mean() > 0.99


def test_below_is_even():
  """Neighbouring numbers, as places and ids are. 6 sigma are 0.03 here."""
  drawn = np.asarray(hashing.below(5, 1, jnp.arange(50_000)))
  share = np.bincount(drawn, minlength=5) / 50_000
  np.testing.assert_allclose(share, 0.2, atol=0.02)


def test_distinct_draws_all_ordered_pairs_alike():
  pair_T2 = np.asarray(hashing.distinct(4, 2, 7, jnp.arange(24_000)))
  assert (pair_T2[:, 0] != pair_T2[:, 1]).all()
  share = np.bincount(pair_T2 @ [4, 1], minlength=16).reshape(4, 4) / 24_000
  np.testing.assert_array_equal(np.diag(share), 0)
  np.testing.assert_allclose(share[~np.eye(4, dtype=bool)], 1 / 12, atol=0.012)
