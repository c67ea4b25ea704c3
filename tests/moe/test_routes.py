"""Routes of a layer: what the parts around its router bring to them."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers import tiny

from moejax.moe import feed_forward, layer
from moejax.moe.config import MoEConfig
from moejax.moe.dispatchers import DISPATCHERS
from moejax.moe.experts.zero_computation import ZeroComputation
from moejax.moe.feed_forward import TokenInfo
from moejax.moe.routers.top_k import TopK
from moejax.moe.routes import RoutesRequest

WIDTH, L = 7, 16
CONFIG = MoEConfig(
  num_experts=3,
  expert_width=4,
  router=TopK(k=2, scale=2.0),
  dispatcher=DISPATCHERS['capacity'](factor=0.6),
  zero_computation=ZeroComputation(zero=1, copy=1),
)


def test_choices_without_computation_have_ids_behind_the_experts():
  """They are dropped only over capacity, as experts are."""
  graph, weights = tiny.module(
    lambda: layer.MoE(CONFIG, WIDTH, 1.0, tiny.mesh(), jax.random.key(0)),
    std=0.5,
  )
  x_BLD = np.random.default_rng(0).normal(size=(1, L, WIDTH))
  index_BL = jnp.arange(L)[None]
  tokens = TokenInfo(index_BL < 14, index_BL, index_BL, RoutesRequest())

  @jax.jit
  def run(weights):
    previous = feed_forward.no_previous_layer(CONFIG, 1, L)
    moe = tiny.bind(graph, weights)
    return moe(x_BLD.astype(np.float32), tokens, previous, None)[2]

  record = jax.device_get(run(weights))
  routes, count_E = record.routes, record.stats['count_E'].total
  ids = routes.expert_BLK[0, :14]
  np.testing.assert_array_equal(np.bincount(ids.ravel(), minlength=5), count_E)
  assert (count_E[3:] > 0).all()
  # Room for .6 * 2 * 16 / 5 assignments, rounded up, of each choice.
  dropped_E = np.bincount(ids[routes.dropped_BLK[0, :14]], minlength=5)
  np.testing.assert_array_equal(dropped_E, np.maximum(count_E - 4, 0))
  assert dropped_E.any()
  assert (np.diff(routes.weight_BLK[0, :14]) <= 0).all()
  # The gates of two of five, times two: after all scaling.
  prob_TE = jax.nn.softmax(x_BLD[0] @ weights['router']['w_DE'], axis=-1)
  want_TK = 2 * np.take_along_axis(np.asarray(prob_TE)[:14], ids, axis=1)
  np.testing.assert_allclose(routes.weight_BLK[0, :14], want_TK, rtol=1e-4)
