"""Rows in parts, one after the other, are rows all at once."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax import config as configs
from moejax.core import errors
from moejax.model import build
from moejax.moe.compute import (
  implementations,
  pallas_fused_swiglu,
  pallas_grouped_matmul,
)
from moejax.parallel import chunking
from moejax.parallel import mesh as meshes
from moejax.plan import compile as plan_compile
from moejax.plan import topology

ROWS, LENGTH = 8, 16
CONFIG = pathlib.Path(__file__).parents[2] / 'configs' / 'ds_2b.py'


def _program(chunks, fsdp):
  """Of a dense and a sparse layer: a loss, the record, the gradient.

  A traced program, and the weights to run it with.
  """
  run = configs.load(f'{CONFIG}:tiny')
  config = dataclasses.replace(
    run.model,
    num_layers=2,
    first_dense=1,
    dtype='float32',
    remat='none',
    token_chunks=chunks,
  )
  mesh = meshes.make(meshes.MeshConfig(fsdp=fsdp), jax.devices()[:fsdp])
  model = build.build(config, mesh)
  rng = np.random.default_rng(0)
  token_BL = jnp.asarray(rng.integers(1, 60, (ROWS, LENGTH)), jnp.int32)
  # One row has padding.
  segment_BL = jnp.ones_like(token_BL).at[3, LENGTH // 2 :].set(0)
  position_BL = jnp.broadcast_to(jnp.arange(LENGTH), token_BL.shape)

  def loss(weights):
    out = model.bind(weights)(
      token_BL, segment_BL, position_BL, key=jax.random.key(1)
    )
    return jnp.sum(jnp.sin(out.x_BLD)), out.record

  weights = tiny.weights(model, std=0.02)
  run = jax.jit(jax.value_and_grad(loss, has_aux=True))
  return run.lower(weights), weights


def _outcome(lowered, weights):
  options = {'xla_backend_optimization_level': 0}
  return lowered.compile(compiler_options=options)(weights)


_cached_program = functools.cache(_program)


@functools.cache
def _once(chunks, fsdp):
  return _outcome(*_cached_program(chunks, fsdp))


@pytest.mark.soak
@pytest.mark.parametrize('fsdp', [1, 2])
def test_parts_of_the_rows_give_the_same_loss_record_and_gradient(fsdp):
  whole, parts = _once(1, fsdp), _once(2, fsdp)
  assert jax.tree.structure(whole) == jax.tree.structure(parts)
  for one, other in zip(
    jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True
  ):
    scale = np.max(np.abs(one)) + 1e-12
    np.testing.assert_allclose(one / scale, other / scale, atol=2e-5)


@pytest.mark.soak
def test_parts_hand_the_weights_on_in_kernels(monkeypatch):
  """As on TPU, where gradients of experts add up from part to part."""
  want = _once(1, 2)  # on two devices, as the test above has it
  kernel = pallas_grouped_matmul.Megablox((16, 128, 128), interpret=True)
  fast = pallas_fused_swiglu.PallasFusedCompute(
    pallas_fused_swiglu.PallasFusedSwiglu(kernel, keep=False)
  )
  monkeypatch.setattr(implementations, 'choose', lambda *_, **__: fast)
  for one, other in zip(
    jax.tree.leaves(want),
    jax.tree.leaves(_outcome(*_program(2, 1))),
    strict=True,
  ):
    scale = np.max(np.abs(one)) + 1e-12
    np.testing.assert_allclose(one / scale, other / scale, atol=2e-5)


@pytest.mark.soak
def test_parts_that_do_not_divide_the_rows_become_fewer():
  # 8 rows on 2 devices: 4 each, of which 6 have the divisor 2 in common.
  (six, _), (two, _), (whole, _) = (_cached_program(n, 2) for n in (6, 2, 1))
  assert six.as_text() == two.as_text() != whole.as_text()


@pytest.mark.parametrize(
  ('chunks', 'words'),
  [
    (7, 'model.token_chunks=7 does not divide the 6 rows .*; use 6$'),
    (4, 'model.token_chunks=4 does not divide the 6 rows .*; use 3 or 6$'),
  ],
)
def test_training_refuses_parts_that_do_not_divide(chunks, words, tmp_path):
  """12 rows on 2 devices; evaluation, which has other rows, takes fewer."""
  mesh = meshes.make(meshes.MeshConfig(fsdp=2), jax.devices()[:2])
  with pytest.raises(errors.InputError, match=words):
    chunking.check(chunks, 12, mesh, 'model.token_chunks')
  chunking.check(3, 12, mesh, 'model.token_chunks')
  flags = {
    'model.token_chunks': str(chunks),
    'train.batch_size': '48',
    'train.micro_batches': '8',
    'mesh.fsdp': '1',
    'mesh.data': '1',
  }
  config = configs.load(f'{CONFIG}:tiny', flags.items())
  with pytest.raises(errors.InputError, match=words):
    plan_compile.lower(config, topology.find('cpu:1'))
