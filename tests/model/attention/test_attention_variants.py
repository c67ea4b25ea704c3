"""Biases, norms, windows, sinks and latent heads, against loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import references, tiny

from moejax.core import errors
from moejax.model import block, stages
from moejax.model.attention import cache, heads, rope
from moejax.model.attention.rope_scaling import YarnScaling
from moejax.model.scales import Scales

L, D = 9, 16
SEGMENT_L, POSITION_L = tiny.documents([4, 3], L)
VALID_L = SEGMENT_L > 0
X_BLD = np.random.default_rng(0).normal(size=(1, L, D)).astype(np.float32)
YARN = YarnScaling(factor=4, length=8, beta_fast=2, mscale=1.0, mscale_all=0.5)
LATENT = heads.Latent(kv_rank=6, q_rank=5, rope_dim=4, value_dim=3)
VARIANTS = {
  'biases': {'qkv_bias': True, 'out_bias': True},
  'norm by head': {'qk_norm': 'head'},
  'norm over all': {'qk_norm': 'width'},
  'sinks': {'sinks': True},
  'window': {'windows': (2,)},
  'window and sinks': {'windows': (3,), 'sinks': True, 'qkv_bias': True},
  'yarn': {'rope': rope.Rope(scaling=YARN), 'qk_norm': 'head'},
  'norm after rope, scaled': {
    'qk_norm': 'head',
    'qk_norm_after_rope': True,
    'scales': Scales(scores=0.3),
  },
  'part rotated': {'rope': rope.Rope(share=0.5, interleaved=True)},
  'latent': {'heads': LATENT, 'num_kv_heads': None},
  'latent, whole queries': {
    'heads': heads.Latent(kv_rank=6, rope_dim=4, value_dim=7),
    'num_kv_heads': None,
    'rope': rope.Rope(scaling=YARN, interleaved=True),
  },
}


def of(name, platform='cpu'):
  config = tiny.model_config(**VARIANTS[name])
  make = block.ATTENTIONS[type(config.heads)]
  graph, weights = tiny.module(
    lambda: make(config, platform, jax.random.key(0))
  )
  window = jnp.asarray(config.windows[0]) if config.windows else None
  return config, graph, weights, window


@functools.partial(jax.jit, static_argnums=(0, 1))
def forward(config, graph, weights, window):
  angles = config.rope.angles(POSITION_L[None], config.heads.rotary_dim(config))
  segment_BL = jnp.asarray(SEGMENT_L[None])
  return tiny.bind(graph, weights)(X_BLD, angles, segment_BL, window)


def project(config, w):
  """q_LHK, k_LHK, v_LHV and the score's scale, written down step by step."""
  x_LD, H = X_BLD[0].astype(np.float64), config.num_heads
  rotate = functools.partial(references.rotate_first, config.rope, POSITION_L)
  if isinstance(config.heads, heads.Latent):
    n, R = config.head_dim, config.heads.kv_rank
    rms = lambda x, scale: np.stack([
      references.rms_norm(row, scale, config.norm_eps) for row in x
    ])
    if 'w_dq_DQ' in w:
      c_LQ = rms(x_LD @ w['w_dq_DQ'], w['norm_q']['scale_D'])
      q_LHK = np.einsum('lq,qhk->lhk', c_LQ, w['w_uq_QHK'])
    else:
      q_LHK = np.einsum('ld,dhk->lhk', x_LD, w['w_q_DHK'])
    both = x_LD @ w['w_dkv_DR']
    c_LR = rms(both[:, :R], w['norm_kv']['scale_D'])
    kv = np.einsum('lr,rhk->lhk', c_LR, w['w_ukv_RHK'])
    shared = np.repeat(rotate(both[:, None, R:]), H, axis=1)
    q_LHK = np.concatenate([q_LHK[..., :n], rotate(q_LHK[..., n:])], -1)
    k_LHK = np.concatenate([kv[..., :n], shared], -1)
    return q_LHK, k_LHK, kv[..., n:], w['w_o_HVD']
  q, k, v = (
    np.einsum('ld,dhk->lhk', x_LD, w[name]) + w.get(bias, 0)
    for name, bias in (
      ('w_q_DHK', 'b_q_HK'),
      ('w_k_DGK', 'b_k_GK'),
      ('w_v_DGK', 'b_v_GK'),
    )
  )
  if config.qk_norm_after_rope:
    q, k = rotate(q), rotate(k)
  if config.qk_norm != 'none':
    q, k = (
      references.qk_norm(x, w[part], config)
      for x, part in ((q, 'norm_q'), (k, 'norm_k'))
    )
  if not config.qk_norm_after_rope:
    q, k = rotate(q), rotate(k)
  each = H // config.kv_heads
  k, v = np.repeat(k, each, axis=1), np.repeat(v, each, axis=1)
  return q, k, v, w['w_o_HKD']


@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
@pytest.mark.parametrize('name', VARIANTS)
def test_it_is_the_loop(name, platform):
  config, graph, weights, window = of(name, platform)
  w = references.float64(weights)
  q, k, v, w_o = project(config, w)
  scale = config.scales.scores or 1 / np.sqrt(q.shape[-1])
  scale *= config.rope.scaling.score_factor
  far = config.windows[0] if config.windows else 0
  want_LD = np.zeros((L, D))
  for i, h in np.ndindex(L, config.num_heads):
    seen = [
      j
      for j in range(i + 1)
      if SEGMENT_L[j] == SEGMENT_L[i] and (not far or i - j < far)
    ]
    scores = [scale * q[i, h] @ k[j, h] for j in seen]
    scores += [w['sink_H'][h]] if config.sinks else []
    probs = references.softmax(scores)
    o_V = sum(p * v[j, h] for p, j in zip(probs, seen, strict=False))
    want_LD[i] += o_V @ w_o[h]
  want_LD += w.get('b_o_D', 0)
  got_LD = forward(config, graph, weights, window)[0]
  assert np.isfinite(got_LD).all()
  np.testing.assert_allclose(
    got_LD[VALID_L], want_LD[VALID_L], rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize('name', VARIANTS)
def test_token_by_token_with_a_cache_is_the_same(name):
  config, graph, weights, window = of(name)
  alone_L = np.arange(L)

  @jax.jit
  def whole(weights):
    angles = config.rope.angles(alone_L[None], config.heads.rotary_dim(config))
    one_BL = jnp.ones((1, L), jnp.int32)
    return tiny.bind(graph, weights)(X_BLD, angles, one_BL, window)

  @jax.jit
  def step(weights, x_BLD, position_BL, slots):
    angles = config.rope.angles(position_BL, config.heads.rotary_dim(config))
    module = tiny.bind(graph, weights)
    return module.step(x_BLD, angles, position_BL, slots, 0, window)

  slots = cache.empty(config, 1, L + 2)
  found = []
  for i in range(L):
    position_BL = jnp.full((1, 1), i)
    out, slots = step(weights, X_BLD[:, i : i + 1], position_BL, slots)
    found.append(out[0, 0])
  np.testing.assert_allclose(found, whole(weights)[0], rtol=1e-4, atol=1e-5)


def test_a_latent_cache_has_one_vector_and_one_key_per_token():
  config, *_ = of('latent')
  found = cache.empty(config, 2, 5)
  assert found.k_NBGSK.shape == (config.num_layers, 2, 1, 5, 6 + 4)
  assert found.v_NBGSK.size == 0


@pytest.mark.parametrize(
  ('windows', 'reach', 'of_moe'),
  # Three layers that see two tokens each reach back over four; one layer that
  # sees all of them is enough for all.
  [
    pytest.param((2,), 4, [2, 2], marks=pytest.mark.soak),
    ((2, 0), 8, [0, 2]),
  ],
)
def test_windows_go_by_layer(windows, reach, of_moe):
  config = tiny.model_config(windows=windows, first_dense=1)
  model = tiny.model(config)
  token_BL = jnp.arange(8)[None]
  one_BL = jnp.ones((1, 8), jnp.int32)

  @jax.jit
  def gradient(weights):
    def last(weights):
      out = model.bind(weights)(token_BL, one_BL, token_BL)
      return out.x_BLD[0, -1, 0]

    return jax.grad(last)(weights)['embed_VD']

  found = np.abs(gradient(tiny.weights(model))).sum(axis=1)[:8]
  assert np.flatnonzero(found).tolist() == [*range(8 - reach, 8)]
  decoder = model.bind(tiny.weights(model))
  places = decoder.trunk.specs(stages.of(config)[1])[0]
  assert places.window.tolist() == of_moe


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'heads': LATENT, 'num_kv_heads': None, 'sinks': True},
      'model.heads=latent does not go with model.sinks;',
    ),
    ({'heads': LATENT}, 'does not go with model.num_kv_heads;'),
    (
      {'heads': heads.Latent(rope_dim=3), 'num_kv_heads': None},
      'model.heads.rope_dim=3 must be even',
    ),
  ],
)
def test_what_does_not_fit_gets_one_line(changes, message):
  with pytest.raises(errors.InputError, match=message):
    tiny.model_config(**changes).check()
