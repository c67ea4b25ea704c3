import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from moejax.core import errors
from moejax.model.attention import dot_product, splash

FAST = sorted(set(dot_product.ATTENTIONS) - {'reference'})


def _inputs(L, H=4, G=2, K=8, dtype=jnp.float32, B=2):
  """q, k, v and what pulls at the output."""
  rng = np.random.default_rng(0)
  return tuple(
    jnp.asarray(rng.normal(size=(B, L, heads, K)), dtype)
    for heads in (H, G, G, H)
  )


def _segments(L):
  """Two rows: three documents and padding; one document."""
  place_L = np.arange(L)
  cuts = (place_L >= L // 3).astype(int) + (place_L >= L // 2) + 1
  packed_L = np.where(place_L >= L - L // 5, 0, cuts)
  return jnp.asarray(np.stack([packed_L, np.ones(L)]), jnp.int32)


@functools.cache
def _with_gradients(name):
  def run(q, k, v, pull, segment_BL):
    out, back = jax.vjp(
      lambda q, k, v: dot_product.ATTENTIONS[name](q, k, v, segment_BL), q, k, v
    )
    return out, *back(pull)

  return jax.jit(run)


def _slowly(q_BLHK, k_BLGK, v_BLGK, segment_BL):
  """Token by token, by numpy."""
  q, k, v = (np.asarray(x, np.float64) for x in (q_BLHK, k_BLGK, v_BLGK))
  B, L, H, K = q.shape
  out = np.zeros_like(q)
  for b, t, h in np.ndindex(B, L, H):
    head = h // (H // k.shape[2])
    seen = [s for s in range(t + 1) if segment_BL[b, s] == segment_BL[b, t]]
    weight = np.exp([q[b, t, h] @ k[b, s, head] * K**-0.5 for s in seen])
    out[b, t, h] = weight / weight.sum() @ v[b, seen, head]
  return out


@pytest.mark.parametrize('name', dot_product.ATTENTIONS)
def test_equals_numpy_token_by_token(name):
  q, k, v, _ = _inputs(11)
  out = dot_product.ATTENTIONS[name](q, k, v, _segments(11))
  np.testing.assert_allclose(out, _slowly(q, k, v, _segments(11)), atol=1e-5)


# At 150 there are three chunks, the last of them short.
@pytest.mark.parametrize(
  ('L', 'heads'),
  [
    (1, (4, 2)),
    pytest.param(150, (4, 4), marks=pytest.mark.soak),
    (150, (4, 2)),
  ],
)
def test_values_and_gradients_equal_the_reference(L, heads):
  args = (*_inputs(L, *heads), _segments(L))
  want = _with_gradients('reference')(*args)
  for name in FAST:
    for a, b in zip(_with_gradients(name)(*args), want, strict=True):
      np.testing.assert_allclose(a, b, atol=2e-5, err_msg=name)


def test_bfloat16_stays_near_float32():
  L = 150
  args = _inputs(L, dtype=jnp.bfloat16)
  exact = [x.astype(jnp.float32) for x in args]
  want = _with_gradients('reference')(*exact, _segments(L))
  for name in dot_product.ATTENTIONS:
    got = _with_gradients(name)(*args, _segments(L))
    for a, b in zip(got, want, strict=True):
      assert a.dtype == jnp.bfloat16
      # Probabilities and outputs are rounded to 8 bits, by 2^-9 each.
      error = np.abs(np.asarray(a, np.float32) - b).max()
      assert error < 2**-6 * np.abs(b).max(), name


@pytest.mark.parametrize('name', dot_product.ATTENTIONS)
def test_no_gradient_crosses_segments_or_comes_from_the_future(name):
  L = 130
  q, k, v, _ = _inputs(L)
  segment_BL = _segments(L)
  t = L // 2 + 20  # in the third document of row 0, beyond one chunk
  first = L // 2

  def one_token(q, k, v):
    return jnp.sum(dot_product.ATTENTIONS[name](q, k, v, segment_BL)[0, t] ** 2)

  for gradient in jax.jit(jax.grad(one_token, argnums=(1, 2)))(q, k, v):
    seen_L = np.any(np.asarray(gradient[0]), axis=(1, 2))
    np.testing.assert_array_equal(
      seen_L, (np.arange(L) >= first) & (np.arange(L) <= t)
    )
    assert not np.any(gradient[1])


@pytest.mark.parametrize('name', dot_product.ATTENTIONS)
def test_padding_and_large_scores_are_finite(name):
  q, k, v, pull = _inputs(70)
  segment_BL = jnp.zeros((2, 70), jnp.int32).at[0, :3].set(1)
  args = (q * 1e3, k * 1e3, v, pull, segment_BL)
  for x in _with_gradients(name)(*args):
    assert np.all(np.isfinite(x))


def test_under_scan_and_checkpoint():
  q, k, v, _ = _inputs(70, H=2, G=2)

  def loss(name, q, scale_N):
    @jax.checkpoint
    def layer(q, scale):
      out = dot_product.ATTENTIONS[name](q * scale, k, v, _segments(70))
      return q + out, None

    return jnp.sum(jax.lax.scan(layer, q, scale_N)[0] ** 2)

  grad = jax.jit(jax.grad(loss, argnums=(1, 2)), static_argnums=0)
  scale_N = jnp.array([1.0, 0.5])
  want = grad('reference', q, scale_N)
  for a, b in zip(grad('chunked', q, scale_N), want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', dot_product.ATTENTIONS)
def test_inside_shard_map_equals_one_device(name):
  mesh = jax.make_mesh(
    (2,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]
  )
  q, k, v, pull = _inputs(70)
  rows = P('data')
  sharded = jax.shard_map(
    dot_product.ATTENTIONS[name],
    mesh=mesh,
    in_specs=(rows,) * 4,
    out_specs=rows,
  )

  def run(q, k, v):
    out, back = jax.vjp(lambda *x: sharded(*x, _segments(70)), q, k, v)
    return out, *back(pull)

  want = _with_gradients('reference')(q, k, v, pull, _segments(70))
  for a, b in zip(jax.jit(run)(q, k, v), want, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)


def test_cache_gives_the_rows_of_the_full_attention():
  q, k, v, _ = _inputs(20)
  segment_BL = _segments(20)
  want = dot_product.reference(q, k, v, segment_BL)
  # Two new tokens against a cache with four unused places.
  later = [(0, 0), (0, 4), (0, 0), (0, 0)]
  k_cache, v_cache = jnp.pad(k, later), jnp.pad(v, later, constant_values=9)
  k_cache, v_cache = (jnp.swapaxes(x, 1, 2) for x in (k_cache, v_cache))
  place_S = jnp.arange(24)
  segment_BS = jnp.pad(segment_BL, [(0, 0), (0, 4)], constant_values=-1)
  mask_BLS = (segment_BS[:, None] == segment_BL[:, 15:17, None]) & (
    place_S <= jnp.arange(15, 17)[:, None]
  )
  out = dot_product.attend_cache(q[:, 15:17], k_cache, v_cache, mask_BLS)
  np.testing.assert_allclose(out, want[:, 15:17], atol=1e-5)


@pytest.mark.parametrize('L', [1, 4])
@pytest.mark.parametrize('B', [1, 3])
def test_a_cache_in_bfloat16(B, L):
  """Text is written so: a program of several rows did not run on CPUs."""
  q, k, v, _ = (x.swapaxes(1, 2) for x in _inputs(128, K=32, B=B))
  given = [q[:, :, -L:].swapaxes(1, 2), k, v]
  mask_BLS = jnp.ones((B, L, 128), bool)
  run = jax.jit(dot_product.attend_cache)
  found = run(*(x.astype(jnp.bfloat16) for x in given), mask_BLS)
  wanted = run(*given, mask_BLS)
  assert found.dtype == jnp.bfloat16
  np.testing.assert_allclose(found.astype(float), wanted, atol=0.03)


def test_cache_row_that_sees_nothing_is_finite():
  q, k, v, _ = _inputs(3)
  k, v = (jnp.swapaxes(x, 1, 2) for x in (k, v))
  out = dot_product.attend_cache(q, k, v, jnp.zeros((2, 3, 3), bool))
  assert np.all(np.isfinite(out))


def test_choice():
  assert dot_product.choose('auto', 'cpu') is dot_product.chunked
  assert dot_product.choose('auto', 'tpu') == splash.Splash(
    None, dot_product.xla
  )
  with pytest.raises(errors.InputError, match="did you mean 'chunked'"):
    dot_product.choose('chunkd', 'cpu')
