"""ZAYA1's router: a network whose input remembers the layers before."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from helpers import tiny

from moejax.moe import feed_forward, layer
from moejax.moe.balance.adamw_bias import AdamWBias
from moejax.moe.config import MoEConfig
from moejax.moe.feed_forward import TokenInfo
from moejax.moe.routers import ROUTERS
from moejax.moe.scorers import SCORERS
from moejax.moe.scorers.base import ScorerInput

D, R, E = 6, 4, 5


def gelu(x):
  return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def slow_state(w, x_D, state_R=0.0):
  """r of one token."""
  return x_D @ w['w_down_DR'] + w['b_down_R'] + w['depth_scale_R'] * state_R


def slow_logits(w, r_R):
  h_R = r_R / np.sqrt(np.mean(r_R**2) + 1e-5) * w['norm_scale_R']
  h_R = gelu(h_R @ w['w_one_RR'] + w['b_one_R'])
  h_R = gelu(h_R @ w['w_two_RR'] + w['b_two_R'])
  return h_R @ w['w_out_RE']


def test_worked_by_hand():
  """One dimension: r = 2 * 1 + .5 * 1 = 2.5, over its norm 1.

  gelu(1) = .841345; gelu(.841345) = .841345 * .799923 = .673011.
  """
  one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
  w = {
    'w_down_DR': one[None],
    'w_one_RR': one[None],
    'w_two_RR': one[None],
    'w_out_RE': np.array([[1.0, -2.0]], np.float32),
    'b_down_R': zero,
    'b_one_R': zero,
    'b_two_R': zero,
    'norm_scale_R': one,
    'depth_scale_R': 0.5 * one,
  }
  scorer = SCORERS['mlp'](width=1)
  given = ScorerInput(
    jnp.array([[2.0]]), jnp.zeros(1, int), state_TR=jnp.ones((1, 1))
  )
  np.testing.assert_allclose(
    scorer(w, given), [[0.673011, -1.346022]], rtol=1e-5
  )
  np.testing.assert_allclose(scorer.state(w, given), [[2.5]])


def test_layers_hand_on_what_they_have_averaged():
  """Three layers against loops: r of the third has part of the first's x."""
  config = MoEConfig(
    num_experts=E,
    expert_width=3,
    scorer=SCORERS['mlp'](width=R),
    router=ROUTERS['top_k'](k=1),
    gating_residual=True,  # so that the next layer is shown the logits
    balance=(),
  )
  graph, w = tiny.module(
    lambda: layer.MoE(config, D, 1.0, tiny.mesh(), jax.random.key(0)), std=0.5
  )
  w['residual'] = np.zeros_like(w['residual'])
  index_BL = jnp.arange(16).reshape(2, 8)
  tokens = TokenInfo(index_BL >= 0, index_BL, index_BL)
  previous = feed_forward.no_previous_layer(config, 2, 8)
  run = jax.jit(
    lambda w, x_BLD, previous: tiny.bind(graph, w)(
      x_BLD, tokens, previous, None
    )[1]
  )
  state_TR = np.zeros((16, R))
  for seed in range(3):
    w = {**w, 'router': tiny.draw(w['router'], seed=seed, std=0.7)}
    w['router']['depth_scale_R'] = np.linspace(0.4, 1.2, R, dtype=np.float32)
    x_BLD = np.random.default_rng(seed).normal(size=(2, 8, D))
    x_BLD = x_BLD.astype(np.float32)
    previous = run(w, x_BLD, previous)
    state_TR = np.array([
      slow_state(w['router'], x_D, state_R)
      for x_D, state_R in zip(x_BLD.reshape(-1, D), state_TR, strict=True)
    ])
    want_TE = [slow_logits(w['router'], r_R) for r_R in state_TR]
    np.testing.assert_allclose(
      previous.state_BLR.reshape(-1, R), state_TR, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
      previous.logits_BLE.reshape(-1, E), want_TE, rtol=1e-3, atol=1e-4
    )


def test_through_a_scan_the_state_is_handed_on():
  """Layers 1 and 2 see no token of their own and pass on what they get: with
  one layer's weights all three then have the probabilities of layer 0.
  """
  model = tiny.model(
    tiny.model_config(
      num_layers=3, first_dense=0, moe={'scorer': SCORERS['mlp'](width=R)}
    )
  )
  weights = tiny.draw(model.shapes)
  router = weights['moe']['ffn']['router']
  for leaf in router.values():
    leaf[1:] = leaf[0]
  router['depth_scale_R'][:] = 1
  for name in ('w_down_DR', 'b_down_R'):
    router[name][1:] = 0
  batch = tiny.batch([[5, 4], [12]])
  out = jax.jit(lambda weights, *batch: model.bind(weights)(*batch))(
    weights, batch.token_BL, batch.segment_BL, batch.position_BL
  )
  prob_NE = np.asarray(out.record.balance['expert_level']['prob_E'])
  assert np.ptp(prob_NE[0]) > 1e-3
  np.testing.assert_allclose(prob_NE[1:], prob_NE[[0, 0]], rtol=1e-4)


def test_without_the_average_nothing_is_handed_on():
  scorer = SCORERS['mlp'](width=R, depth_average=False)
  assert scorer.state_width == 0
  w = scorer.init(jax.random.key(0), D, E, 0.5)
  assert 'depth_scale_R' not in w
  w = {name: param[...] for name, param in w.items()}
  x_TD = jnp.ones((3, D))
  with_state = ScorerInput(x_TD, jnp.zeros(3, int), state_TR=jnp.ones((3, R)))
  np.testing.assert_array_equal(
    scorer(w, with_state), scorer(w, ScorerInput(x_TD, jnp.zeros(3, int)))
  )


def after(part, state, counts):
  """The state of one layer after batches of these loads."""
  layers = lambda tree: jax.tree.map(lambda x: jnp.asarray(x)[None], tree)
  for count_E in counts:
    sums = {'count_E': np.asarray(count_E, np.float32)}
    new = part.update(layers(state), layers(sums))
    state = jax.tree.map(lambda x: np.asarray(x[0]), new)
  return state


def test_the_bias_worked_by_hand():
  """Shares (5, 2, 1) / 8: g = (.2917, -.0833, -.2083).

  The first step of Adam is the rate against the sign. Then shares (2, 2, 4) / 8
  with g = (-.0833, -.0833, .1667), betas 0: again the sign.
  """
  part = AdamWBias(rate=0.01)
  one = after(part, part.initial_state(3), [[5, 2, 1]])
  np.testing.assert_allclose(
    one.selection_bias_E, [-0.01, 0.01, 0.01], rtol=1e-4
  )
  np.testing.assert_allclose(one.kept['first_E'][0], 0.1 * 0.291667, rtol=1e-4)
  flat = AdamWBias(rate=0.01, beta1=0.0, beta2=0.0)
  two = after(flat, flat.initial_state(3), [[5, 2, 1], [2, 2, 4]])
  np.testing.assert_allclose(two.selection_bias_E, [0, 0.02, 0], atol=1e-6)
  # A batch of padding says nothing.
  tiny.assert_close(after(part, one, [[0, 0, 0]]), one)


def test_the_bias_equals_optax_adamw():
  counts = np.random.default_rng(0).integers(0, 50, (12, 6))
  part = AdamWBias(rate=0.02, beta1=0.8, beta2=0.95, weight_decay=0.1)
  got = after(part, part.initial_state(6), counts)
  adamw = optax.adamw(0.02, 0.8, 0.95, weight_decay=0.1)
  bias_E = jnp.zeros(6)
  moments = adamw.init(bias_E)
  for count_E in counts:
    slope_E = jnp.asarray(count_E / count_E.sum() - 1 / 6, jnp.float32)
    step_E, moments = adamw.update(slope_E, moments, bias_E)
    bias_E = optax.apply_updates(bias_E, step_E)
  np.testing.assert_allclose(got.selection_bias_E, bias_E, rtol=1e-4, atol=1e-6)
