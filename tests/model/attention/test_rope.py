"""Rotary positions: shapes of pairs, and frequencies that are lowered."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core import errors
from moejax.model.attention import rope
from moejax.model.attention.rope_scaling import (
  DynamicScaling,
  LinearScaling,
  Llama3Scaling,
  LongRopeScaling,
  Unscaled,
  YarnScaling,
)

RNG = np.random.default_rng(0)
X_BLHK = RNG.normal(size=(2, 5, 3, 8)).astype(np.float32)
POSITION_BL = np.array([[0, 1, 2, 3, 4], [7, 100, 2, 0, 9]])
# Of DeepSeek-V2-Lite and gpt-oss: pairs 0, 8, 16, 24, 31 of 32, as transformers
# 5.23 gives them (modeling_rope_utils, float32), and the length of cos and sin.
DEEPSEEK = rope.Rope(
  scaling=YarnScaling(factor=40, length=4096, mscale=0.707, mscale_all=0.707)
)
GPT_OSS = rope.Rope(
  base=150_000,
  scaling=YarnScaling(factor=32, length=4096, whole=False),
)
LLAMA = rope.Rope(base=500_000, scaling=Llama3Scaling())


def rotated(scheme, dim=None):
  dim = dim or scheme.rotary_dim(X_BLHK.shape[-1])
  angles = scheme.angles(jnp.asarray(POSITION_BL), dim)
  return np.asarray(scheme.rotate(jnp.asarray(X_BLHK), angles))


def test_interleaved_is_halves_of_features_in_another_order():
  order_K = np.array([0, 2, 4, 6, 1, 3, 5, 7])
  scheme = rope.Rope(interleaved=True)
  angles = scheme.angles(jnp.asarray(POSITION_BL), 8)
  halves = rope.Rope().rotate(jnp.asarray(X_BLHK[..., order_K]), angles)
  np.testing.assert_allclose(
    rotated(scheme)[..., order_K], halves, rtol=1e-6, atol=1e-6
  )
  # By hand: at position 1 the first pair is rotated by 1 radian.
  a, b = X_BLHK[0, 1, 0, :2]
  want = [
    a * math.cos(1) - b * math.sin(1),
    b * math.cos(1) + a * math.sin(1),
  ]
  np.testing.assert_allclose(rotated(scheme)[0, 1, 0, :2], want, rtol=1e-5)


def test_a_share_turns_as_a_narrower_head_does_and_the_rest_stays():
  half = rotated(rope.Rope(share=0.5))
  scheme = rope.Rope()
  angles = scheme.angles(jnp.asarray(POSITION_BL), 4)
  want = scheme.rotate(jnp.asarray(X_BLHK[..., :4]), angles)
  np.testing.assert_array_equal(half[..., :4], want)
  np.testing.assert_array_equal(half[..., 4:], X_BLHK[..., 4:])


@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
@pytest.mark.parametrize('interleaved', [False, True])
def test_features_before_the_pairs_stay(interleaved, platform):
  scheme = rope.Rope(interleaved=interleaved)
  angles = scheme.angles(jnp.asarray(POSITION_BL), 4)
  got = scheme.rotate(jnp.asarray(X_BLHK), angles, platform, before=3)
  want = scheme.rotate(jnp.asarray(X_BLHK[..., 3:]), angles)
  np.testing.assert_array_equal(got[..., :3], X_BLHK[..., :3])
  np.testing.assert_allclose(got[..., 3:], want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('interleaved', [False, True])
@pytest.mark.parametrize('share', [0.5, 1.0])
def test_on_tpu_a_matrix_moves_the_features(interleaved, share):
  scheme = rope.Rope(interleaved=interleaved, share=share)
  angles = scheme.angles(
    jnp.asarray(POSITION_BL), scheme.rotary_dim(X_BLHK.shape[-1])
  )

  def both(platform):
    rotate = lambda x: scheme.rotate(x, angles, platform)
    y_BLHK, pull = jax.vjp(rotate, jnp.asarray(X_BLHK))
    return y_BLHK, *pull(jnp.cos(y_BLHK))

  for got, want in zip(both('tpu'), both('cpu'), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
  x_BLHK = jnp.asarray(X_BLHK, jnp.bfloat16)
  got, want = (scheme.rotate(x_BLHK, angles, p) for p in ('tpu', 'cpu'))
  np.testing.assert_array_equal(got, want)


def test_linear_scaling_divides_positions():
  scheme = rope.Rope(scaling=LinearScaling(factor=4.0))
  cos, _ = scheme.angles(jnp.asarray(POSITION_BL), 8)
  want, _ = rope.Rope().angles(jnp.asarray(POSITION_BL / 4), 8)
  np.testing.assert_allclose(cos, want, rtol=1e-5, atol=1e-6)


GOLDEN = {
  'DEEPSEEK': (
    DEEPSEEK,
    64,
    (0, 8, 16, 24, 31),
    [1.0, 0.1, 0.0055000004, 2.4999999e-05, 3.3338035e-06],
    1.0,
  ),
  'GPT_OSS': (
    GPT_OSS,
    64,
    (0, 8, 16, 24, 31),
    [1.0, 0.050813273, 0.00045648392, 4.0999785e-06, 3.0235114e-07],
    1.3465735902799727,
  ),
  'LLAMA': (
    LLAMA,
    128,
    (0, 20, 30, 40, 63),
    [1.0, 0.016560441, 0.0013718937, 3.4281024e-05, 3.0689259e-07],
    1.0,
  ),
}


@pytest.mark.parametrize('name', GOLDEN)
def test_frequencies_are_those_of_transformers(name):
  scheme, dim, pairs, want, amplitude = GOLDEN[name]
  found = scheme.scaling.frequencies(scheme.base, dim)
  np.testing.assert_allclose(found[list(pairs)], want, rtol=1e-6)
  assert scheme.scaling.amplitude == pytest.approx(amplitude, rel=1e-9)
  cos, sin = scheme.angles(jnp.asarray([[0, 3]]), dim)
  np.testing.assert_allclose(cos**2 + sin**2, amplitude**2, rtol=1e-5)


def test_a_text_ends_where_positions_begin_again():
  position_BL = [[0, 1, 2, 0, 1, 0, 0, 1, 2, 3], [4, 5, 6, 7, 8, 9, 0, 1, 0, 0]]
  found_BL = rope._longest(jnp.asarray(position_BL))
  assert found_BL.tolist() == [
    [3, 3, 3, 2, 2, 1, 4, 4, 4, 4],
    [10, 10, 10, 10, 10, 10, 2, 2, 1, 1],
  ]


LONG = {
  'dynamic': DynamicScaling(factor=2.0, length=4),
  'longrope': LongRopeScaling(
    short=(1.0, 2.0), long=(3.0, 5.0), length=4, attention_factor=1.5
  ),
}


@pytest.mark.parametrize('name', LONG)
def test_positions_go_by_the_length_of_their_own_text(name):
  """However texts are packed; given lengths go before what positions say."""
  scheme = rope.Rope(base=16.0, scaling=LONG[name])

  def alone(length):
    angles = scheme.angles(jnp.arange(length)[None], 4)
    return np.stack(angles)[:, 0]

  packed_BL = jnp.concatenate([jnp.arange(4), jnp.arange(7)])[None]
  found = np.stack(scheme.angles(packed_BL, 4))[:, 0]
  np.testing.assert_array_equal(found[:, :4], alone(4))
  np.testing.assert_array_equal(found[:, 4:], alone(7))
  # Both rows are the beginning of a text, of 4 tokens and of 7.
  piece_BL = jnp.broadcast_to(jnp.arange(4), (2, 4))
  angles = scheme.angles(piece_BL, 4, jnp.asarray([4, 7]))
  found = np.stack(angles)
  np.testing.assert_array_equal(found[:, 0], alone(4))
  np.testing.assert_array_equal(found[:, 1], alone(7)[:, :4])
  assert np.abs(found[:, 0] - found[:, 1]).max() > 0.1


@pytest.mark.parametrize(
  ('name', 'want'),
  [
    ('dynamic', [[1, 1 / 4], [1, 1 / 12]]),
    ('longrope', [[1, 1 / 8], [1 / 3, 1 / 20]]),
  ],
)
def test_frequencies_of_a_short_and_a_long_text_by_hand(name, want):
  """Base 16 and K = 4: unscaled frequencies are 1 and 1 / 4.

  Eight tokens are twice the length, so with factor 2 the base of `dynamic` is
  16 * (2 * 2 - 1)^(4 / 2) = 144, and the second frequency 1 / 12.
  """
  found = [
    LONG[name].per_token(16.0, 4, functools.partial(jnp.full, (1, 1), num))[
      0, 0
    ]
    for num in (4, 8)
  ]
  np.testing.assert_allclose(found, want, rtol=1e-6)


def test_attention_factor_is_the_length_of_cos_and_sin():
  scheme = rope.Rope(base=16.0, scaling=LONG['longrope'])
  cos, sin = scheme.angles(jnp.arange(3)[None], 4)
  np.testing.assert_allclose(cos**2 + sin**2, 1.5**2, rtol=1e-6)


def test_yarn_keeps_fast_pairs_and_divides_slow_ones():
  found = DEEPSEEK.scaling.frequencies(DEEPSEEK.base, 64)
  plain = Unscaled().frequencies(DEEPSEEK.base, 64)
  turns = 4096 * plain / (2 * math.pi)
  assert (found <= plain).all()
  np.testing.assert_array_equal(found[turns > 2 * 32], plain[turns > 2 * 32])
  np.testing.assert_allclose(found[turns < 0.5], plain[turns < 0.5] / 40)
  # DeepSeek's scores: (0.1 * 0.707 * ln 40 + 1)^2; elsewhere cos and sin have
  # all of it.
  want = (0.0707 * math.log(40) + 1) ** 2
  assert DEEPSEEK.scaling.score_factor == pytest.approx(want)
  assert GPT_OSS.scaling.score_factor == 1


def test_yarn_with_one_number_of_turns_keeps_a_pair_or_divides_it():
  """Kimi-K2's: 64 ln(4096 / 2 pi) / (2 ln 50000) = 19.16, between 19 and 20."""
  scaling = YarnScaling(factor=32.0, length=4096, beta_fast=1.0, beta_slow=1.0)
  scheme = rope.Rope(base=50000.0, scaling=scaling)
  divisor = Unscaled().frequencies(scheme.base, 64) / scaling.frequencies(
    scheme.base, 64
  )
  np.testing.assert_allclose(divisor, [1] * 20 + [32] * 12)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: rope.Rope(share=0.3).rotary_dim(10), r'10 x model.rope.share=0.3'),
    (
      lambda: YarnScaling(beta_slow=40.0),
      'at most beta_fast=32.0',
    ),
    (lambda: Llama3Scaling(low=5.0), 'below high=4.0'),
  ],
)
def test_bad_values_get_one_line(make, message):
  with pytest.raises(errors.InputError, match=message):
    make()
