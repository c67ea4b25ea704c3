"""The cache: what a step writes and reads, and where."""

import numpy as np
from helpers import tiny

from moejax.model.attention import cache

N, B, G, S, K = 3, 2, 2, 5, 4


def test_tokens_are_written_at_their_own_positions_of_one_layer():
  config = tiny.model_config(
    num_layers=N, num_heads=2, num_kv_heads=G, head_dim=K
  )
  new = np.random.default_rng(0).normal(size=(2, B, 2, G, K))
  k_BLGK, v_BLGK = new.astype(np.float32)
  position_BL = np.array([[0, 1], [3, 4]])
  kept = cache.empty(config, B, S).write(1, position_BL, k_BLGK, v_BLGK)
  for whole, x_BLGK in ((kept.k_NBGSK, k_BLGK), (kept.v_NBGSK, v_BLGK)):
    want = np.zeros((N, B, G, S, K), np.float32)
    for b, i, g in np.ndindex(B, 2, G):
      want[1, b, g, position_BL[b, i]] = x_BLGK[b, i, g]
    np.testing.assert_array_equal(whole, want)
  k_BGSK, v_BGSK = kept.read(1)
  np.testing.assert_array_equal(k_BGSK, kept.k_NBGSK[1])
  np.testing.assert_array_equal(v_BGSK, kept.v_NBGSK[1])
