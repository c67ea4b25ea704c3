"""Norm, rotary positions and attention, each against its formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import references, tiny

from moejax.model import norm
from moejax.model.attention import grouped as grouped_lib
from moejax.model.attention import rope

RNG = np.random.default_rng(0)
L = 9
SEGMENT_L, POSITION_L = tiny.documents([4, 3], L)


def test_rms_norm():
  x_TD = (3 * RNG.normal(size=(5, 16)) + 1).astype(np.float32)
  graph, weights = tiny.module(lambda: norm.RMSNorm(16, 1e-2))
  call = jax.jit(lambda w, x: tiny.bind(graph, w)(x))
  want_TD = [
    references.rms_norm(x_D, weights['scale_D'], 1e-2)
    for x_D in x_TD.astype(np.float64)
  ]
  np.testing.assert_allclose(call(weights, x_TD), want_TD, rtol=1e-5)
  # Zeros stay zeros, and bfloat16 is squared in float32: no overflow.
  np.testing.assert_array_equal(call(weights, 0 * x_TD), 0)
  huge = call(weights, jnp.asarray(1e30 * x_TD, jnp.bfloat16))
  assert huge.dtype == jnp.bfloat16


def rotated(x_BLHK, position_BL, base):
  scheme = rope.Rope(base=base)
  angles = scheme.angles(jnp.asarray(position_BL), x_BLHK.shape[-1])
  return scheme.rotate(x_BLHK, angles)


def test_rotation_is_the_formula():
  x_BLHK = RNG.normal(size=(2, L, 3, 8)).astype(np.float32)
  position_BL = np.stack([np.arange(L), POSITION_L])
  got_BLHK = rotated(x_BLHK, position_BL, 100.0)
  for b, position, h in np.ndindex(2, L, 3):
    want_K = references.rotate(
      x_BLHK[b, position, h], position_BL[b, position], 100.0
    )
    np.testing.assert_allclose(
      got_BLHK[b, position, h], want_K, rtol=1e-4, atol=1e-5
    )


def test_scores_depend_on_the_difference_of_positions_alone():
  q, k = RNG.normal(size=(2, 1, 1, 1, 32)).astype(np.float32)
  score = lambda i, j: float(
    jnp.vdot(rotated(q, [[i]], 1e4), rotated(k, [[j]], 1e4))
  )
  near, far = score(7, 4), score(1007, 1004)
  assert far == pytest.approx(near, abs=2e-3)
  assert abs(score(8, 4) - near) > 0.1
  # Position 0 is not rotated, and a rotation keeps the length.
  np.testing.assert_array_equal(rotated(q, [[0]], 1e4), q)
  length = float(jnp.linalg.norm(rotated(q, [[55]], 1e4)))
  assert length == pytest.approx(float(np.linalg.norm(q)), rel=1e-5)


def attend(kv_heads, **changes):
  config = tiny.model_config(num_kv_heads=kv_heads, **changes)
  graph, weights = tiny.module(
    lambda: grouped_lib.Attention(config, 'cpu', jax.random.key(0))
  )
  return config, functools.partial(_attend, config, graph), weights


@functools.partial(jax.jit, static_argnums=(0, 1))
def _attend(config, graph, weights, x_BLD):
  angles = config.rope.angles(POSITION_L[None], config.head_dim)
  return tiny.bind(graph, weights)(x_BLD, angles, jnp.asarray(SEGMENT_L[None]))


X_BLD = RNG.normal(size=(1, L, 16)).astype(np.float32)


@pytest.mark.parametrize('kv_heads', [None, 4, 2, 1])
def test_attention_is_the_formula(kv_heads):
  config, run, weights = attend(kv_heads)
  assert weights['w_k_DGK'].shape == (16, kv_heads or 4, 4)
  want_LD = references.attention(
    {name: w.astype(np.float64) for name, w in weights.items()},
    X_BLD[0].astype(np.float64),
    SEGMENT_L,
    POSITION_L,
    config.rope.base,
  )
  # Of padding only that it is finite is promised.
  got_LD = run(weights, X_BLD)[0]
  assert np.isfinite(got_LD).all()
  valid_L = SEGMENT_L > 0
  np.testing.assert_allclose(
    got_LD[valid_L], want_LD[valid_L], rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize('kv_heads', [4, 2, 1])
def test_grouped_queries_are_repeated_key_value_heads(kv_heads):
  _, grouped, weights = attend(kv_heads)
  _, plain, _ = attend(None)
  repeated = {
    name: np.repeat(w, 4 // kv_heads, axis=1) if '_DG' in name else w
    for name, w in weights.items()
  }
  np.testing.assert_allclose(
    grouped(weights, X_BLD), plain(repeated, X_BLD), rtol=1e-5, atol=1e-6
  )
