"""Attention of pieces of rows equals attention of whole rows."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.core import errors
from moejax.model.attention import context, dot_product, online
from moejax.moe.balance import gshard
from moejax.moe.dispatchers.capacity import Capacity
from moejax.moe.feed_forwards.soft_moe import SoftMoEConfig
from moejax.moe.routers.base_layer import BaseLayer
from moejax.moe.routers.thor import Thor
from moejax.parallel import context as pieces
from moejax.vision.front_end import VISIONS

B, L, H, G, K, V = 2, 16, 4, 2, 4, 3
WINDOW = 5
# Blocks of two tokens, so that a chunk of the contiguous order has two.
BLOCK = 2
# Two documents, and padding; and one document.
SEGMENT_BL = jnp.array([[1] * 5 + [2] * 8 + [0] * 3, [1] * 16], jnp.int32)
CASES = {
  'all_gather': context.AllGather('contiguous'),
  'all_gather_balanced': context.AllGather('balanced'),
  'ring': context.Ring('contiguous'),
  'ring_balanced': context.Ring('balanced'),
}


@functools.cache
def inputs():
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  q, k, v = draw(B, L, H, K), draw(B, L, G, K), draw(B, L, G, V)
  return (q, k, v, draw(H)), draw(B, L, H, V)


def on_mesh(parallel, mesh):
  """Attention of whole rows, split and joined around that of their pieces."""

  def run(q, k, v, sink_H, window):
    how = mesh, parallel.order
    q, k, v, segment = pieces.split((q, k, v, SEGMENT_BL), *how)
    core = parallel.core('auto', 'cpu', mesh)
    out = core(q, k, v, segment, window, sink_H)
    return pieces.join(out, *how)

  return run


def whole(q, k, v, sink_H, window):
  return dot_product.with_window_and_sinks(q, k, v, SEGMENT_BL, window, sink_H)


def with_gradients(run):
  """Output and gradients, with a window and without one, by one program."""
  arrays, pull = inputs()

  @jax.jit
  def both(arrays, window):
    out, back = jax.vjp(lambda *x: run(*x, window), *arrays)
    return out, back(pull)

  windows = (jnp.int32(0), jnp.int32(WINDOW))
  return jax.device_get([both(arrays, window) for window in windows])


@functools.cache
def expected():
  return with_gradients(whole)


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[] if 'balanced' in name else [pytest.mark.soak])
    for name in sorted(CASES)
  ],
)
def test_equals_whole_rows_with_gradients(name, monkeypatch):
  """Documents, padding, windows, sinks, and fewer key heads than queries."""
  monkeypatch.setattr(online, 'BLOCK', BLOCK)
  mesh = tiny.mesh(4, data=1, context=4)
  found = with_gradients(on_mesh(CASES[name], mesh))
  for one, other in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected()), strict=True
  ):
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.soak
@pytest.mark.parametrize('name', sorted(CASES))
def test_rows_and_heads_are_split_too(name):
  mesh = tiny.mesh(8, data=2, context=2, model=2)
  found = with_gradients(on_mesh(CASES[name], mesh))
  for one, other in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected()), strict=True
  ):
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_blocks_that_see_nothing_of_each_other_are_left_out():
  """Blocks of 4 tokens at places 8 and 0, 4, 8, 12; a window of 5 or none."""
  block = lambda start: online._Keys(None, None, np.zeros((1, 4)), start)
  meet = lambda start, window: bool(
    online._meet(block(8), block(start), jnp.int32(window))
  )
  assert [meet(start, 0) for start in (0, 4, 8, 12)] == [1, 1, 1, 0]
  # Token 8 sees 4 to 8; all of 0 to 3 are before that.
  assert [meet(start, 5) for start in (0, 4, 8, 12)] == [0, 1, 1, 0]
  assert [meet(start, 6) for start in (0, 4, 8, 12)] == [1, 1, 1, 0]


REFUSED = {
  'model.attention=chunked needs whole rows': {'attention': 'chunked'},
  'model.context_parallel=ring: set model.attention=auto': {
    'attention': 'splash',
    'context_parallel': context.Ring(),
  },
  'reads images': {'vision': VISIONS['encoder']()},
  'model.feed_forward=soft_moe': {'feed_forward': SoftMoEConfig()},
  'model.moe.router=base_layer': {'moe': {'router': BaseLayer()}},
  'model.moe.router=thor': {'moe': {'router': Thor(by='sequence')}},
  'model.moe.dispatcher=capacity': {'moe': {'dispatcher': Capacity()}},
  'model.moe.balance.gshard_aux': {'moe': {'balance': (gshard.GShardAux(),)}},
}


@pytest.mark.parametrize('message', sorted(REFUSED))
def test_what_needs_whole_rows_is_refused(message):
  config = tiny.model_config(**REFUSED[message])
  context.check(config, tiny.mesh(2, data=2))
  with pytest.raises(
    errors.InputError, match=f'mesh.context=2 splits rows.*{message}'
  ):
    context.check(config, tiny.mesh(2, data=1, context=2))


def test_what_does_not_is_not():
  config = tiny.model_config(moe={'router': Thor()})
  context.check(config, tiny.mesh(2, data=1, context=2))
  no_experts = dataclasses.replace(
    config, feed_forward=SoftMoEConfig(), first_dense=3
  )
  context.check(no_experts, tiny.mesh(2, data=1, context=2))
