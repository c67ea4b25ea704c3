"""Whole layers of the zoo on eight devices against the same on one.

What is compared: outputs, the gradients of all weights and of the tokens, and
the balance losses, in a step of training on rows with padding.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from helpers import tiny
from moejax import config as configs
from moejax.config import user_files
from moejax.core import table, trees
from moejax.moe import feed_forward, layer
from moejax.moe.balance import BALANCE
from moejax.moe.feed_forward import TokenInfo
from moejax.parallel import context

ROOT = pathlib.Path(__file__).parents[2]
ZOO = str(ROOT / 'configs' / 'zoo.py')
MESHES = {
  'expert': {'data': 2, 'expert': 4},
  'expert_model': {'data': 1, 'fsdp': 2, 'expert': 2, 'model': 2},
  'expert_context': {'data': 1, 'expert': 4, 'context': 2},
  'expert_stage': {'data': 1, 'stage': 2, 'fsdp': 2, 'expert': 2},
}
B, L, WIDTH = 8, 8, 8
KEY = jax.random.key(3)
# Of the largest value of each array. A gradient that is zero but for the
# rounding of larger terms (hmoe: of a level that keeps one) counts as LEAST.
TOLERANCE = 2e-5
LEAST = 5e-2

RNG = np.random.default_rng(0)
X_BLD = RNG.normal(size=(B, L, WIDTH)).astype(np.float32)
PULL_BLD = RNG.normal(size=(B, L, WIDTH)).astype(np.float32)
VALID_BL = np.arange(L) < RNG.integers(1, L + 1, (B, 1))
TOKEN_BL = RNG.integers(0, 60, (B, L)).astype(np.int32)


def names():
  """Entries that are layers with experts."""
  return sorted(set(user_files.load(ZOO, 'config').ZOO) - {'dense'})


def goes(name, mesh_name):
  """Whether an entry can be computed on a mesh; pieces of rows are not all."""
  moe = config_of(name)
  parts = (moe.router, moe.dispatcher, *moe.balance)
  whole = any(getattr(part, 'reads_rows', False) for part in parts)
  return not (whole and 'context' in MESHES[mesh_name])


def config_of(name, **router):
  """An entry with eight experts, and other fields of its router."""
  moe = configs.shrink(configs.load(f'{ZOO}:{name}')).model.moe
  return dataclasses.replace(
    moe,
    num_experts=8,
    expert_width=4,
    router=dataclasses.replace(moe.router, **router),
  )


def run(config, mesh, quantization='none'):
  """Output, gradients and balance losses, by name."""
  key = jax.random.key(0)
  graph, weights = tiny.module(
    lambda: layer.MoE(config, WIDTH, 1.0, mesh, key, quantization=quantization),
    std=0.5,
  )
  index_BL = jnp.arange(B * L, dtype=jnp.int32).reshape(B, L)
  tokens = TokenInfo(jnp.asarray(VALID_BL), index_BL, TOKEN_BL)
  before = feed_forward.no_previous_layer(config, B, L)
  # Logits of a layer before, for gating residuals.
  before = before.replace(
    logits_BLE=before.logits_BLE + jnp.cos(index_BL)[..., None]
  )

  def one(weights, x_BLD):
    out_BLD, _, record = tiny.bind(graph, weights)(x_BLD, tokens, before, KEY)
    return out_BLD, record.balance

  def loss(weights, x_BLD):
    if mesh.shape['context'] == 1:
      out_BLD, sums = tiny.in_stages(one, mesh)(weights, x_BLD)
    else:
      how = mesh, 'balanced'
      given = context.split((x_BLD, tokens, before), *how)
      info = dataclasses.replace(given[1], row_axes=('context',))
      moe = tiny.bind(graph, weights)
      out_PSD, _, record = moe(given[0], info, given[2], KEY)
      out_BLD, sums = context.join(out_PSD, *how), record.balance
    losses = {
      table.name_of(BALANCE, part): part.loss(
        sums[table.name_of(BALANCE, part)]
      )
      for part in config.balance
    }
    total = jnp.vdot(out_BLD, PULL_BLD) + 10 * sum(losses.values())
    return total, {'output': out_BLD, 'balance': losses}

  gradients = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
  (of_w, of_x), rest = jax.device_get(gradients(weights, X_BLD))
  of_w.pop('router_state', None)
  return trees.leaves({'gradient': of_w, 'of the tokens': of_x, **rest})


@functools.cache
def on_one(config, quantization='none'):
  return run(config, tiny.mesh(), quantization)


def check(config, mesh_name, quantization='none'):
  """Raises AssertionError where a mesh and one device differ."""
  want = on_one(config, quantization)
  got = run(config, tiny.mesh(8, **MESHES[mesh_name]), quantization)
  assert got.keys() == want.keys()
  for path, leaf in want.items():
    size = max(np.max(np.abs(leaf), initial=0), LEAST)
    np.testing.assert_allclose(
      got[path], leaf, rtol=0, atol=TOLERANCE * size, err_msg=path
    )
