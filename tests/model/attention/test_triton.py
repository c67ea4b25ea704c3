"""Attention's kernels for GPUs, interpreted on CPU, against all scores masked.

`tests/model/attention/test_triton_on_gpu.py` compiles them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.core import errors
from moejax.model.attention import (
  dot_product,
  narrow_values,
  triton,
  triton_kernels,
)

KERNELS = triton.Triton(interpret=True)
# Rows, tokens, query heads, key heads, widths of keys and of values. The first
# needs two blocks of 128, which visit shorter ones, and its documents begin and
# end in the middle of blocks; the second two of 32. Of the last, nothing is a
# multiple of a tile.
SHAPES = {
  'several blocks, shared keys': (1, 200, 2, 1, 16, 16),
  'latent heads': (1, 40, 2, 2, 192, 128),
  'odd': (2, 33, 3, 1, 24, 20),
}


def _inputs(rows, length, heads, groups, width_k, width_v, dtype=jnp.float32):
  rng = np.random.default_rng(0)
  shapes = [
    (heads, width_k),
    (groups, width_k),
    (groups, width_v),
    (heads, width_v),
  ]
  arrays = [
    jnp.asarray(rng.normal(size=(rows, length, *shape)), dtype)
    for shape in shapes
  ]
  # Two documents, and padding.
  first, second = length // 2 + 3, length // 3
  segment_L = np.repeat([1, 2, 0], [first, second, length - first - second])
  return *arrays, jnp.asarray(np.tile(segment_L, (rows, 1)), jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def _with_gradients(attention, q, k, v, pull, segment):
  out, back = jax.vjp(lambda *x: attention(*x, segment), q, k, v)
  return out, *back(pull)


@pytest.mark.parametrize('case', SHAPES)
def test_equals_the_reference_with_gradients(case):
  given = _inputs(*SHAPES[case])
  found = _with_gradients(KERNELS, *given)
  expected = _with_gradients(dot_product.reference, *given)
  for one, other in zip(found, expected, strict=True):
    assert one.shape == other.shape
    np.testing.assert_allclose(one, other, atol=2e-5)


def test_bfloat16_is_summed_in_float32():
  """As exact as the reference, which rounds its factors alone too."""
  given = _inputs(*SHAPES['odd'], jnp.bfloat16)
  exact = _with_gradients(
    dot_product.reference, *(x.astype(jnp.float32) for x in given[:-1]),
    given[-1],
  )  # fmt: skip
  worst = []
  for attention in (KERNELS, dot_product.reference):
    found = _with_gradients(attention, *given)
    assert {x.dtype for x in found} == {jnp.dtype('bfloat16')}
    worst.append([
      float(jnp.max(jnp.abs(x.astype(jnp.float32) - y)))
      for x, y in zip(found, exact, strict=True)
    ])
  assert all(one < 2 * other for one, other in zip(*worst, strict=True))


def test_rows_and_heads_split_over_devices_are_the_same():
  *arrays, _, segment = _inputs(2, 32, 4, 2, 16, 16)
  mesh = tiny.mesh(4, data=1, fsdp=2, model=2)
  run = jax.jit(triton.Triton(mesh, interpret=True))
  np.testing.assert_allclose(
    run(*arrays, segment), dot_product.reference(*arrays, segment), atol=2e-5
  )


@pytest.mark.parametrize(
  ('shape', 'why'),
  [
    # 2 x 264 features of four bytes; 264 is 272 in tiles of 16.
    ((2, 8, 2, 264), 'in 2048 bytes a head, not 2176'),
    ((3, 8, 2, 16), 'rows over 2 devices and key heads over 1, not 3 and 2'),
    ((2, 8, 2, 16), 'needs GPUs, not cpu'),
  ],
)
def test_what_the_kernels_cannot_compute(shape, why):
  x, segment = jnp.ones(shape), jnp.ones(shape[:2], jnp.int32)
  mesh = tiny.mesh(2, data=1, fsdp=2)
  with pytest.raises(errors.InputError, match=f'{why}; use auto'):
    triton.Triton(mesh)(x, x, x, segment)
  # auto has another way, also for values that are narrower.
  auto = dot_product.choose('auto', 'gpu', mesh)
  out = narrow_values.attend(auto, x, x, x[..., :-1], segment)
  assert out.shape == (*shape[:3], shape[3] - 1)


def test_a_config_names_it():
  assert dot_product.choose('triton', 'gpu') == triton.Triton()


def test_tiles_of_a_head_are_powers_of_two():
  assert triton_kernels.pieces(128) == [(0, 128)]
  assert triton_kernels.pieces(192) == [(0, 128), (128, 64)]
  assert triton_kernels.pieces(112) == [(0, 64), (64, 32), (96, 16)]


def test_pairs_that_are_computed():
  # Heads of 128 in two bytes: 32 blocks of 128 tokens, 32 x 33 / 2 pairs.
  assert triton_kernels.sizes(4096, 512).pairs(4096) == 528 * 128**2
  # Latent heads, 192 and 128: 64 blocks of 64 tokens.
  assert triton_kernels.sizes(4096, 640).pairs(4096) == 2080 * 64**2
  # A short row is one block.
  assert triton_kernels.sizes(20, 512).pairs(32) == 32**2
