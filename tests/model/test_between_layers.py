"""What is kept of each layer for the backward pass is split over `model`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

CONFIG = dataclasses.replace(
  tiny.MODEL, num_layers=5, first_dense=1, num_kv_heads=4, remat='full'
)
ROWS = ([5, 3], [8], [3, 1, 4], [1])  # of 8 tokens


def _program(length, **sizes):
  number = int(np.prod(list(sizes.values())))
  model = tiny.model(CONFIG, tiny.mesh(number, data=1, **sizes))

  @jax.jit
  @jax.value_and_grad
  def run(weights, batch):
    out = model.bind(weights)(
      batch.token_BL, batch.segment_BL, batch.position_BL
    )
    return jnp.sum(jnp.sin(out.x_BLD))

  return run, tiny.weights(model), tiny.batch(ROWS, row_length=length)


@functools.cache
def _text(length):
  run, *inputs = _program(length, fsdp=2, model=2)
  return run.lower(*inputs).compile().as_text()


@pytest.mark.parametrize(
  ('length', 'kept'),
  # Four layers with experts; two rows on a device; an odd length stays whole.
  [(8, 4), pytest.param(9, 9, marks=pytest.mark.soak)],
)
def test_the_stack_of_kept_activations(length, kept):
  text = _text(length)
  assert f'f32[4,2,{kept},16]' in text
  whole = f'f32[4,2,{length},16]'
  assert (whole in text) == (kept == length)


@pytest.mark.soak
def test_on_a_mesh_it_is_the_same():
  run, *inputs = _program(8, fsdp=2, model=2)
  alone, *_ = _program(8, fsdp=1)
  for got, want in zip(
    jax.tree.leaves(run(*inputs)), jax.tree.leaves(alone(*inputs)), strict=True
  ):
    most = 2e-5 * max(np.abs(want).max(), 1)
    np.testing.assert_allclose(got, want, rtol=0, atol=most)
