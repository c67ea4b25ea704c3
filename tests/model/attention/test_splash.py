"""The kernel, interpreted on CPU, against all scores masked."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.core import errors
from moejax.model.attention import dot_product, splash, triton
from moejax.model.attention.context import AllGather, Online, Ring
from moejax.model.attention.splash_pieces import SplashPieces
from moejax.parallel import context

LENGTH, HEADS, GROUPS, WIDTH = 256, 2, 1, 128


def _inputs(rows, heads=HEADS, groups=GROUPS, width=WIDTH, values=None):
  rng = np.random.default_rng(0)
  sizes = {'q': (heads, width), 'k': (groups, width)}
  sizes |= {
    name: (n, values or width) for name, n in (('v', groups), ('o', heads))
  }
  arrays = [
    jnp.asarray(rng.normal(size=(rows, LENGTH, *size)), jnp.float32)
    for size in sizes.values()
  ]
  # Documents of 100 and 70 tokens, and padding.
  segment_L = np.repeat([1, 2, 0], [100, 70, LENGTH - 170])
  return *arrays, jnp.asarray(np.tile(segment_L, (rows, 1)), jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def _with_gradients(attention, q, k, v, pull, segment):
  out, back = jax.vjp(lambda *x: attention(*x, segment), q, k, v)
  return out, *back(pull)


def _mesh(**sizes):
  number = int(np.prod(list(sizes.values())))
  return tiny.mesh(number, **sizes)


@pytest.mark.parametrize(
  ('width', 'values'), [(WIDTH, WIDTH), (192, 128), (64, 64)]
)
def test_equals_the_reference_with_gradients(width, values):
  given = _inputs(1, width=width, values=values)
  found = _with_gradients(splash.Splash(interpret=True), *given)
  expected = _with_gradients(dot_product.reference, *given)
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, atol=2e-5)


def test_rows_and_heads_split_over_devices_are_the_same():
  *arrays, _, segment = _inputs(2, heads=4, groups=2)
  mesh = _mesh(fsdp=2, model=2)
  run = jax.jit(splash.Splash(mesh, interpret=True))
  np.testing.assert_allclose(
    run(*arrays, segment), dot_product.reference(*arrays, segment), atol=2e-5
  )


@pytest.mark.parametrize(
  ('shape', 'why'),
  [
    ((2, 200, 2, 128), 'multiple of 128 tokens, not 200'),
    ((3, 256, 2, 128), 'rows over 2 devices'),
    ((2, 256, 2, 128), 'splash needs TPUs, not cpu; use auto'),
  ],
)
def test_what_the_kernel_cannot_compute(shape, why):
  x, segment = jnp.ones(shape), jnp.ones(shape[:2], jnp.int32)
  mesh = _mesh(fsdp=2)
  with pytest.raises(errors.InputError, match=why):
    splash.Splash(mesh)(x, x, x, segment)
  out = splash.Splash(mesh, otherwise=dot_product.xla)(x, x, x, segment)
  assert out.shape == shape


def test_auto_takes_it_on_tpu_alone():
  assert isinstance(dot_product.choose('auto', 'tpu'), splash.Splash)
  assert dot_product.choose('auto', 'cpu') is dot_product.chunked
  assert isinstance(dot_product.choose('auto', 'gpu'), triton.Triton)
  assert isinstance(dot_product.choose('splash', 'tpu'), splash.Splash)


@pytest.mark.parametrize(
  ('length', 'part'), [(128, 1.0), (2048, 3 / 4), (4096, 10 / 16)]
)
def test_the_part_that_is_visited(length, part):
  assert splash.visited(length) == part


def test_wide_heads_are_visited_in_smaller_blocks():
  # With 1,024 of width 256 the gradient was refused by the compiler for v5p.
  assert splash.block(4096) == 1024
  assert splash.block(4096, 256) == 512
  assert splash.block(4096, 64) == 1024
  assert splash.block(128, 4096) == 128
  # 8 blocks: 36 of 64 pairs.
  assert splash.visited(4096, 256) == 36 / 64


@pytest.mark.parametrize('order', sorted(context.ORDERS))
def test_pieces_of_rows_are_the_same_with_gradients(order):
  """256 tokens on two devices; a chunk of the balanced order has too few."""
  *arrays, pull, segment = _inputs(1)
  if order == 'balanced':
    *arrays, pull, segment = (
      jnp.concatenate([x, x], axis=1) for x in (*arrays, pull, segment)
    )
  mesh = tiny.mesh(2, data=1, context=2)
  run = SplashPieces(mesh, order, None, interpret=True)

  def attention(q, k, v, segment):
    pieces = context.split((q, k, v, segment), mesh, order)
    return context.join(run(*pieces), mesh, order)

  found = _with_gradients(attention, *arrays, pull, segment)
  expected = _with_gradients(dot_product.reference, *arrays, pull, segment)
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, atol=2e-5)


def test_pieces_that_the_kernel_cannot_compute_go_another_way():
  *arrays, _, segment = _inputs(1)
  mesh = tiny.mesh(2, data=1, context=2)
  other = lambda *_: 'another way'
  run = SplashPieces(mesh, 'balanced', other, interpret=True)
  pieces = [x[:, :128] for x in (*arrays, segment)]
  with pytest.raises(errors.InputError, match='multiple of 128 .* not 64; use'):
    run(*pieces)
  assert run(*pieces, window=4) == 'another way'
  assert run(*pieces, sink_H=4) == 'another way'
  whole = lambda q, k, v, segment: v + 1
  run = dataclasses.replace(run, otherwise=whole)
  np.testing.assert_array_equal(run(*pieces), pieces[2] + 1)


def test_the_kernel_is_taken_where_there_is_one():
  mesh = tiny.mesh(2, data=1, context=2)
  kinds = lambda parallel, *how: type(parallel.core(*how, mesh))
  assert kinds(AllGather(), 'auto', 'tpu') is SplashPieces
  assert kinds(AllGather(), 'splash', 'cpu') is SplashPieces
  assert kinds(AllGather(), 'auto', 'cpu') is Online
  assert kinds(Ring(), 'auto', 'tpu') is Online
