"""Weights in int8 and float8, and what they change, within bounds by hand."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from helpers import tiny

from moejax.core import trees
from moejax.model import formed, rounded
from moejax.train import lora

NAMES = ['float8_e4m3', 'int8']
LARGEST = {'float8_e4m3': 448.0, 'int8': 127.0}
# Two layers with experts; those of attention add nothing, see `weights_of`.
CONFIG = tiny.model_config(
  num_layers=1, first_dense=0, moe={'grouped_matmul': 'reference'}
)
TOKEN_BL = np.random.default_rng(1).integers(1, 64, (2, 6)).astype(np.int32)
POSITION_BL = np.tile(np.arange(6, dtype=np.int32), (2, 1))


def model_of(name, base):
  forms = lora.forms_of(trees.leaves(base.shapes), lora.Lora())
  return rounded.of(base, name, forms)


def step_of(w, name, dims):
  """The most by which a rounded weight may be wrong.

  int8: numbers are 1 apart, so half of one scale. E4M3: three bits behind the
  leading one, so half a step is 1/16 of the number or less; below 2^-6 numbers
  are 2^-9 apart, half of which is 2^-10.
  """
  scale = np.abs(w).max(axis=dims, keepdims=True) / LARGEST[name]
  if name == 'int8':
    return np.broadcast_to(scale / 2, w.shape)
  return np.maximum(np.abs(w) / 16, scale * 2.0**-10)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('dims', [(1,), (1, 2)])
def test_values_and_scales_equal_numpy(dims, name):
  w = np.random.default_rng(0).normal(size=(3, 8, 4)).astype(np.float32)
  w[0] = 0
  found = rounded.rounded(jnp.asarray(w), name, dims)
  scale = np.abs(w).max(axis=dims, keepdims=True) / np.float32(LARGEST[name])
  scale[scale == 0] = 1
  values = w / scale
  if name == 'int8':
    values = np.round(values).astype(np.int8)
  else:
    values = values.astype(ml_dtypes.float8_e4m3fn)
  np.testing.assert_allclose(found.scale, scale, rtol=1e-6)
  np.testing.assert_array_equal(found.values, values)
  assert found.values.dtype.itemsize == 1


@pytest.mark.parametrize('name', NAMES)
def test_a_weight_is_wrong_by_half_a_step_at_most(name):
  # Of all sizes, down to those that only the smallest numbers hold.
  rng = np.random.default_rng(0)
  w = rng.normal(size=(64, 8)) * 10.0 ** rng.integers(-5, 1, (64, 8))
  w = w.astype(np.float32)
  error = np.abs(rounded.rounded(jnp.asarray(w), name, (0,)).array() - w)
  most = step_of(w, name, 0)
  assert np.all(error <= most * (1 + 1e-5))
  # Somewhere the bound is nearly reached.
  assert np.max(error / most) > 0.9


@pytest.fixture(scope='module')
def models():
  base = tiny.model(CONFIG)
  return {'full': base, **{name: model_of(name, base) for name in NAMES}}


@pytest.fixture(scope='module')
def weights(models):
  """Random weights, but attention adds zero, and experts add little."""
  factors = {'w_o_HKD': 0.0, 'w_out_EFD': 0.1}
  factor = lambda path: factors.get(path.rsplit('/', 1)[-1], 1.0)
  drawn = tiny.weights(models['full'])
  return trees.map_paths(lambda path, w: factor(path) * w, drawn)


@pytest.fixture(scope='module')
def runs(models):
  """By the name of the weights' type: weights -> logits."""

  def make(model):
    def apply(own):
      decoder = model.bind(own)
      out = decoder(TOKEN_BL, jnp.ones_like(TOKEN_BL), POSITION_BL)
      return decoder.logits(out.x_BLD)

    return jax.jit(apply)

  return {name: make(model) for name, model in models.items()}


@pytest.fixture(scope='module')
def logits(models, weights, runs):
  """Logits of these weights by the name of their type."""
  own = {n: m.round(weights) for n, m in models.items() if n != 'full'}
  own['full'] = weights
  return {n: np.asarray(run(own[n]), np.float64) for n, run in runs.items()}


def test_matrices_of_layers_are_rounded_and_nothing_else(models, weights):
  own = models['int8'].round(weights)
  paths = {
    path.removesuffix('/values')
    for path, leaf in trees.leaves(own).items()
    if leaf.dtype == jnp.int8
  }
  attention = {f'moe/attention/w_{x}' for x in ('q_DHK', 'k_DGK', 'v_DGK')}
  experts = {
    f'moe/ffn/{kind}/{name}'
    for kind in ('routed', 'shared')
    for name in ('w_in_ED2F', 'w_out_EFD')
  }
  assert paths == attention | experts | {'moe/attention/w_o_HKD'}
  # Shapes and shardings are of the same tree, as `device_put` wants them.
  same = jax.tree.map(
    lambda leaf, shape: leaf.shape == shape.shape and leaf.dtype == shape.dtype,
    own,
    models['int8'].shapes,
  )
  assert all(jax.tree.leaves(same))
  scale = own['moe']['ffn']['routed']['w_in_ED2F'].scale
  # By layer, expert, half and column: 16 inputs share a scale.
  assert scale.shape == (1, 4, 1, 2, 6)


@pytest.mark.parametrize('name', NAMES)
def test_logits_are_wrong_by_a_bound_at_most(name, weights, logits):
  """The bound is worked out in `bound`, product by product."""
  error = np.abs(logits[name] - logits['full'])
  most = bound(name, weights)
  assert np.all(error <= most)
  # Errors of many terms, which the bound adds up, mostly cancel out.
  assert np.max(error) > 1e-3 * np.max(most)


def bound(name, weights):
  """The most by which each logit may be wrong.

  Attention adds zero, and zeros are rounded to zeros. So the router and the
  experts read the same rows h with and without rounding, and choose alike. With
  E the most by which a weight is wrong (`step_of`), for each expert

    g = h W_g, u = h W_u      |dg| <= |h| E_g     |du| <= |h| E_u
    a = silu(g) u             |da| <= 1.1 |dg| (|u| + |du|) + |silu(g)| |du|
    y = a W_o                 |dy| <= |da| (|W_o| + E_o) + |a| E_o

  since the slope of silu is at most 1.1. Outputs are summed by their gates, in
  x. The norm n = s x / r with r = sqrt(mean(x^2) + eps): r changes by at most
  e = |dx|_2 / sqrt(D), and |dn| <= |s| (|dx| + |x| e / r) / (r - e).
  """
  w = jax.tree.map(lambda x: np.asarray(x, np.float64), weights)
  layer, eps = jax.tree.map(lambda x: x[0], w['moe']), CONFIG.norm_eps
  norm = lambda x, s: s * x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
  x = w['embed_VD'][TOKEN_BL].reshape(-1, CONFIG.width)
  h = norm(x, layer['norm_ffn']['scale_D'])

  def expert(w_D2F, w_FD):
    g, u = h @ w_D2F[:, 0], h @ w_D2F[:, 1]
    step_D2F = step_of(w_D2F, name, 0)
    dg, du = np.abs(h) @ step_D2F[:, 0], np.abs(h) @ step_D2F[:, 1]
    silu = g / (1 + np.exp(-g))
    da = 1.1 * dg * (np.abs(u) + du) + np.abs(silu) * du
    e_o = step_of(w_FD, name, 0)
    dy = da @ (np.abs(w_FD) + e_o) + np.abs(silu * u) @ e_o
    return (silu * u) @ w_FD, dy

  logits = h @ layer['ffn']['router']['w_DE']
  prob = np.exp(logits - logits.max(-1, keepdims=True))
  prob /= prob.sum(-1, keepdims=True)
  k = CONFIG.moe.router.k
  kept = prob >= np.sort(prob, axis=-1)[:, -k, None]
  dx, new = np.zeros_like(x), x.copy()
  for kind in ('routed', 'shared'):
    own = layer['ffn'][kind]
    for e, pair in enumerate(
      zip(own['w_in_ED2F'], own['w_out_EFD'], strict=True)
    ):
      gate = (prob * kept)[:, [e]] if kind == 'routed' else 1.0
      y, dy = expert(*pair)
      new, dx = new + gate * y, dx + gate * dy
  r = np.sqrt((new**2).mean(-1, keepdims=True) + eps)
  e = np.sqrt((dx**2).mean(-1, keepdims=True))
  assert np.all(e < r)
  dn = np.abs(w['norm']['scale_D']) * (dx + np.abs(new) * e / r) / (r - e)
  most = dn @ np.abs(w['head_DV'])
  # What the model computes in float32 is within 1e-4 of these formulas.
  return most.reshape(*TOKEN_BL.shape, -1) + 1e-4


@pytest.mark.parametrize('name', NAMES)
def test_logits_are_those_of_the_formed_weights(
  name, models, weights, runs, logits
):
  whole = formed.arrays(models[name].round(weights))
  assert jax.tree.structure(whole) == jax.tree.structure(weights)
  np.testing.assert_allclose(
    runs['full'](whole), logits[name], rtol=1e-4, atol=1e-4
  )


def test_rounded_weights_on_a_mesh_are_those_of_one_device(models, weights):
  want = models['int8'].round(weights)
  mesh = tiny.mesh(8, fsdp=2, expert=2, model=2)
  model = model_of('int8', tiny.model(CONFIG, mesh))
  on_mesh = jax.device_put(weights, model.base.shardings)
  got = model.round(on_mesh)
  tiny.assert_close(jax.device_get(got), jax.device_get(want), 1e-6, 0)
  values = got['moe']['ffn']['routed']['w_in_ED2F'].values
  assert len({shard.index for shard in values.addressable_shards}) == 8


def test_the_memory_is_a_byte_a_number_and_a_scale_an_output(models):
  # The number of scales of each rounded weight, which are of its outputs.
  shapes = trees.leaves(models['full'].shapes)
  full = 4 * sum(np.prod(leaf.shape) for leaf in shapes.values())
  rows = {'moe/attention/w_q_DHK': 16, 'moe/attention/w_k_DGK': 8}
  rows |= {'moe/attention/w_v_DGK': 8, 'moe/attention/w_o_HKD': 16}
  rows |= {'moe/ffn/routed/w_in_ED2F': 4 * 12, 'moe/ffn/routed/w_out_EFD': 64}
  rows |= {'moe/ffn/shared/w_in_ED2F': 24, 'moe/ffn/shared/w_out_EFD': 16}
  now = full
  for path, scales in rows.items():
    now += 4 * scales - 3 * np.prod(shapes[path].shape)
  assert trees.num_bytes(models['int8'].shapes) == now
