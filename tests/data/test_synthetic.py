"""Made-up rows: repeatable, well-formed, and with something to learn."""

import numpy as np
import pytest

from moejax.data import loader, synthetic


@pytest.mark.parametrize('vocab_size', [5, 259, 8192])
@pytest.mark.parametrize('length', [2, 3, 64])
def test_rows_are_well_formed(length, vocab_size):
  rows = synthetic.Synthetic(length, vocab_size)
  target_NL, segment_NL = rows.rows(np.arange(200))
  assert target_NL.shape == (200, length)
  assert target_NL.min() >= 1
  assert target_NL.max() < vocab_size
  assert set(np.unique(segment_NL)) == {1, 2}
  assert (np.diff(segment_NL, axis=1) >= 0).all()
  last_N = (segment_NL == 1).sum(axis=1) - 1
  assert (target_NL[np.arange(200), last_N] == 1).all()
  assert (target_NL == 1).sum() == 200


def test_a_row_is_a_function_of_seed_and_index():
  rows = synthetic.Synthetic(16, 100)
  whole = rows.rows(np.arange(50)).target_NL
  np.testing.assert_array_equal(rows.rows(np.array([7])).target_NL[0], whole[7])
  assert len(np.unique(whole, axis=0)) == 50
  other = synthetic.Synthetic(16, 100, seed=1).rows(np.arange(50)).target_NL
  assert (whole != other).mean() > 0.8


def test_counting_up_is_the_best_guess():
  batch = synthetic.Synthetic(64, 8192).batch(3, 100)
  inside_BL = (batch.position_BL > 0) & (batch.target_BL != 1)
  follows_BL = batch.target_BL == batch.token_BL + 1
  # Right unless this or the last id is noise or the count wraps: 49 in 64.
  assert 0.72 < follows_BL[inside_BL].mean() < 0.8
  assert len(np.unique(batch.target_BL)) == 257


def test_batches_are_shared_between_hosts_and_read_by_the_loader():
  rows = synthetic.Synthetic(8, 50)
  whole = rows.batch(2, 6).target_BL
  np.testing.assert_array_equal(
    rows.batch(2, 6, slice(3, 6)).target_BL, whole[3:]
  )
  mixed = loader.Loader({'synthetic': rows}, [1.0], 6, 0)
  assert mixed.batch(10**9).target_BL.shape == (6, 8)
