"""Experts that are split whole over `fsdp` where their number divides."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.moe.expert_parallel import EXPERT_PARALLEL
from moejax.moe.feed_forward import TokenInfo
from moejax.moe.layer import MoE

B, L, D, E = 8, 4, 8, 4
RNG = np.random.default_rng(0)
X_BLD = RNG.normal(size=(B, L, D)).astype(np.float32)
PULL_BLD = RNG.normal(size=(B, L, D)).astype(np.float32)
CONFIG = dataclasses.replace(tiny.MOE, num_experts=E)


def _layer(config, mesh):
  return MoE(config, D, 0.3, mesh, jax.random.key(0))


def _axes(**sizes):
  number = int(np.prod(list(sizes.values())))
  layer = _layer(CONFIG, tiny.mesh(number, data=1, **sizes))
  return {n: w.get_metadata()['axes'] for n, w in layer.routed.items()}


def test_the_dimension_that_is_split():
  assert _axes(fsdp=1)['w_in_ED2F'][:2] == ('expert', 'embed')
  whole = _axes(fsdp=2, expert=2)
  assert whole['w_in_ED2F'] == ('whole_expert', *['unsharded'] * 2, 'mlp')
  assert whole['w_out_EFD'] == ('whole_expert', 'mlp', 'unsharded')
  # Eight parts of four experts: cut inside.
  assert _axes(fsdp=8)['w_in_ED2F'][:2] == ('expert', 'embed')
  assert _axes(fsdp=4, expert=2)['w_out_EFD'] == ('expert', 'mlp', 'embed')


def _found(config, **sizes):
  number = int(np.prod(list(sizes.values())))
  mesh = tiny.mesh(number, data=1, **sizes)
  graph, weights = tiny.module(lambda: _layer(config, mesh))
  valid_BL = jnp.ones((B, L), bool)
  index_BL = jnp.arange(B * L).reshape(B, L)
  info = TokenInfo(valid_BL, index_BL, index_BL)

  @jax.jit
  @jax.value_and_grad
  def run(weights):
    out_BLD, _, record = tiny.bind(graph, weights)(X_BLD, info, None, None)
    balance = sum(map(jnp.sum, jax.tree.leaves(record.balance)))
    return jnp.sum(out_BLD * PULL_BLD) + balance

  return run, weights


@pytest.mark.parametrize(
  'sizes',
  [
    {'fsdp': 2, 'expert': 2},
    pytest.param({'fsdp': 4}, marks=pytest.mark.soak),
    pytest.param({'fsdp': 2, 'expert': 2, 'model': 2}, marks=pytest.mark.soak),
  ],
  ids=str,
)
@pytest.mark.parametrize(
  'name',
  [
    'all_to_all',
    pytest.param('all_gather', marks=pytest.mark.soak),
    pytest.param('gather_experts', marks=pytest.mark.soak),
  ],
)
def test_on_a_mesh_it_is_the_same(name, sizes):
  parallel = EXPERT_PARALLEL[name]()
  config = dataclasses.replace(CONFIG, expert_parallel=parallel)
  run, weights = _found(config, **sizes)
  alone, _ = _found(config, fsdp=1)
  for got, want in zip(
    jax.tree.leaves(run(weights)), jax.tree.leaves(alone(weights)), strict=True
  ):
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
