"""MoE++: logits = W x + W_g (total logits of the layer before)."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers import tiny

from moejax.moe import feed_forward, layer
from moejax.moe.balance import BALANCE
from moejax.moe.config import MoEConfig
from moejax.moe.feed_forward import TokenInfo
from moejax.moe.routers import ROUTERS

E, WIDTH = 4, 10
CONFIG = MoEConfig(
  num_experts=E,
  expert_width=6,
  router=ROUTERS['top_k'](k=2),
  gating_residual=True,
)


def test_two_layers_by_hand():
  """The second is given the first's total, which has its own residual."""
  rng = np.random.default_rng(0)
  graph, first = tiny.module(
    lambda: layer.MoE(CONFIG, WIDTH, 1.0, tiny.mesh(), jax.random.key(0)),
    std=0.5,
  )
  second = tiny.draw(jax.tree.map(jnp.asarray, first), seed=1, std=0.5)
  x_BLD, y_BLD = rng.normal(size=(2, 2, 8, WIDTH)).astype(np.float32)
  index_BL = jnp.arange(16).reshape(2, 8)
  tokens = TokenInfo(index_BL >= 0, index_BL, index_BL)
  before_BLE = rng.normal(size=(2, 8, E)).astype(np.float32)
  previous = feed_forward.no_previous_layer(CONFIG, 2, 8).replace(
    logits_BLE=before_BLE
  )

  @jax.jit
  def run(w, x_BLD, previous):
    return tiny.bind(graph, w)(x_BLD, tokens, previous, None)[1]

  middle = run(first, x_BLD, previous)
  last = run(second, y_BLD, middle)
  one_BLE = x_BLD @ first['router']['w_DE'] + before_BLE @ first['residual']
  two_BLE = y_BLD @ second['router']['w_DE'] + one_BLE @ second['residual']
  np.testing.assert_allclose(middle.logits_BLE, one_BLE, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(last.logits_BLE, two_BLE, rtol=1e-4, atol=1e-5)
  best_BL2 = np.argsort(-two_BLE, axis=-1)[..., :2]
  want_BLE = (best_BL2[..., None] == np.arange(E)).any(axis=2)
  np.testing.assert_array_equal(last.chosen_BLE, want_BLE)


def test_through_a_scan_logits_are_handed_on():
  """Layers 1 and 2 look at no token and pass on what they get: all three then
  have the probabilities of layer 0, whose own W_g meets zeros.
  """
  model = tiny.model(
    tiny.model_config(
      num_layers=3,
      first_dense=0,
      moe={
        'gating_residual': True,
        'router': ROUTERS['top_k'](k=2),
        'balance': (BALANCE['switch'](),),
      },
    )
  )
  weights = tiny.draw(model.shapes)
  ffn = weights['moe']['ffn']
  ffn['router']['w_DE'][1:] = 0
  ffn['residual'][1:] = np.eye(E)
  batch = tiny.batch([[5, 4], [12]])
  out = jax.jit(lambda weights, *batch: model.bind(weights)(*batch))(
    weights, batch.token_BL, batch.segment_BL, batch.position_BL
  )
  prob_NE = np.asarray(out.record.balance['switch']['prob_E'])
  assert np.ptp(prob_NE[0]) > 0.1
  np.testing.assert_allclose(prob_NE[1:], prob_NE[[0, 0]], rtol=1e-5)
