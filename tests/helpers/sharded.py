"""Routers and expert parallelism on eight devices, against a dense sum on one.

Each router is traced by itself. Routings whose lists have the same shape then
go through one compiled program, one after the other, so that all routers on a
mesh cost one compilation.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from helpers import dense, tiny
from moejax.moe import contract
from moejax.moe.compute import implementations
from moejax.moe.config import MoEConfig
from moejax.moe.dispatchers import DISPATCHERS
from moejax.moe.expert_parallel import EXPERT_PARALLEL
from moejax.moe.routers import ROUTERS
from moejax.parallel import inside
from moejax.parallel import mesh as meshes

B, L, D, F, E = 8, 7, 4, 4, 8
T = B * L
EMPTY, FULL = 2, 5
KEY = jax.random.key(3)
RTOL, ATOL = 2e-5, 2e-5
UNLIMITED = 'dropless'  # a dispatcher that drops nothing

# Routers of every kind: test_meshes.py says what a kind is.
EVERY_KIND = (
  'base_layer',
  'dselect_k',
  'expert_choice',
  'group_limited',
  'gshard',
  'hash',
  'noisy_top_k',
  'remoe',
  'sinkhorn',
  'tc_moe',
  'thor',
  'top_k',
)

MESHES = {
  'one': {},
  'data': {'data': 8},
  'fsdp': {'data': 2, 'fsdp': 4},
  'expert': {'data': 1, 'expert': 8},
  'expert_data': {'data': 2, 'expert': 4},
  'expert_fsdp': {'data': 1, 'fsdp': 2, 'expert': 4},
  'expert_model': {'data': 1, 'fsdp': 2, 'expert': 2, 'model': 2},
  # Rows stand for pieces of rows.
  'expert_context': {'data': 1, 'expert': 2, 'context': 2, 'model': 2},
  # Inside of a pipeline.
  'expert_stage': {'data': 1, 'stage': 2, 'expert': 2, 'model': 2},
}

RNG = np.random.default_rng(0)
X_TD = RNG.normal(size=(T, D)).astype(np.float32)
PULL_TD = RNG.normal(size=(T, D)).astype(np.float32)
VALID_T = (np.arange(L) < RNG.integers(1, L + 1, (B, 1))).reshape(-1)
TOKEN_T = RNG.integers(0, 60, T).astype(np.int32)
SPECS = {
  'w_in_ED2F': P(None, 'expert', None, None, 'model'),
  'w_out_EFD': P(None, 'expert', 'model', None),
}
GATHERED = {
  'w_in_ED2F': P(None, None, None, None, 'model'),
  'w_out_EFD': P(None, None, 'model', None),
}


@functools.cache
def scores(name):
  """Logits and extra scores for a router."""
  router = ROUTERS[name]()
  rng = np.random.default_rng(len(name))
  draw = lambda num: rng.normal(size=(T, num)).astype(np.float32)
  logits = draw(router.num_logits(E))
  if logits.shape[1] == E:
    logits[:, EMPTY] -= 30
    logits[:, FULL] += 9
  extra = {key: draw(num) for key, (_, num) in router.extra_scorers(E).items()}
  return logits, extra


def given(logits, extra, tokens, key=KEY):
  index_T, valid_T, token_T = tokens
  return contract.RouterInput(
    logits_TE=logits,
    valid_T=valid_T,
    index_T=index_T,
    key=key,
    row_length=L,
    extra_scores=extra,
    token_T=token_T,
    steps=jnp.float32(3),
  )


TOKENS = (np.arange(T, dtype=np.int32), VALID_T, TOKEN_T)


def routing_of(name):
  return ROUTERS[name]()(given(*scores(name), TOKENS))


def count(routing):
  return np.bincount(np.asarray(routing.expert_A), minlength=E + 1)[:E]


def weights(names):
  """Expert weights for each of the routers, each with its own."""
  rng = np.random.default_rng(7)
  draw = lambda *shape: rng.normal(size=(len(ROUTERS), *shape))
  every = {'w_in_ED2F': draw(E, D, 2, F), 'w_out_EFD': draw(E, F, D)}
  own = [sorted(ROUTERS).index(name) for name in names]
  return {key: leaf[own].astype(np.float32) for key, leaf in every.items()}


def reference(name, dispatcher):
  """Output and gradients on one device, by a dense sum over all experts."""

  def loss(w, x_TD, score):
    routing = ROUTERS[name]()(given(*score, TOKENS))
    limited = DISPATCHERS[dispatcher]().limit(routing, E, training=True)
    if limited.scales_input:
      x_TD = x_TD * limited.weight_A[:, None]
      limited = dataclasses.replace(
        limited, weight_A=jnp.ones_like(limited.weight_A)
      )
    gate_TE = dense.gates(limited, T, E, limited.expert_A < E)
    out_TD = dense.experts(w, x_TD, gate_TE)
    return jnp.vdot(out_TD, PULL_TD), out_TD

  return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)


def expected(dispatcher, names):
  """By router: gradients and output, of some routers at least.

  The result is the same for all dispatchers that limit nothing; it is computed
  once for them, and for all routers or those of every kind.
  """
  routing = routing_of('top_k')
  limited = DISPATCHERS[dispatcher]().limit(routing, E, training=True)
  if limited is routing:
    few = set(names) <= set(EVERY_KIND)
    return _expected(UNLIMITED, EVERY_KIND if few else tuple(sorted(ROUTERS)))
  return _expected(dispatcher, names)


@functools.cache
def _expected(dispatcher, names):
  """One compilation for all of these routers."""
  stack = weights(names)

  @jax.jit
  def run(x_TD, all_scores):
    found = {}
    for i, name in enumerate(names):
      w = {key: leaf[i] for key, leaf in stack.items()}
      found[name] = reference(name, dispatcher)(w, x_TD, all_scores[name])
    return found

  return jax.device_get(run(X_TD, {name: scores(name) for name in names}))


def signature(routing):
  """The properties by which two routings share a compiled program."""
  return (
    routing.expert_A.shape,
    routing.per_token,
    routing.group_size,
    routing.room,
    routing.scales_input,
  )


def outputs_on_shard(config, mesh, names, w, x_TD, all_scores, tokens):
  """out_NTD of all routers, inside shard_map."""
  routings = {
    name: config.dispatcher.limit(
      ROUTERS[name]()(given(*all_scores[name], tokens)), E, training=True
    )
    for name in names
  }
  run = implementations.choose(config, 'cpu')

  def one(carry, inputs):
    w, routing = inputs
    x = x_TD
    if routing.scales_input:
      x = x * routing.weight_A[:, None]
      one_A = jnp.ones_like(routing.weight_A)
      routing = dataclasses.replace(routing, weight_A=one_A)
    if mesh.shape['expert'] == 1 or config.expert_parallel.gathers_experts:
      found = run(w, x, routing, E)
    else:
      found = config.expert_parallel(run, w, x, routing, E)
    return carry, found.out_TD

  out = {}
  key = lambda name: str(signature(routings[name]))
  for _, group in itertools.groupby(sorted(names, key=key), key):
    group = list(group)
    bare = [
      dataclasses.replace(routings[name], extra={}, residual_T=None)
      for name in group
    ]
    numbers = np.array([names.index(name) for name in group])
    some = jax.tree.map(lambda leaf, n=numbers: leaf[n], w)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *bare)
    _, out_NTD = jax.lax.scan(one, None, (some, stacked))
    out |= dict(zip(group, out_NTD, strict=True))
  out_NTD = jnp.stack([out[name] for name in names])
  # Each device has summed its part of the hidden width.
  return jax.lax.psum(out_NTD, 'model')


def found(mesh_name, dispatcher, expert_parallel, names):
  """By router: gradients and output, on a mesh."""
  sizes = MESHES[mesh_name]
  mesh = tiny.mesh(8 if sizes else 1, **sizes)
  config = MoEConfig(
    num_experts=E,
    dispatcher=DISPATCHERS[dispatcher](),
    expert_parallel=EXPERT_PARALLEL[expert_parallel](),
  )
  rows = P(meshes.BATCH_AXES)
  specs = GATHERED if config.expert_parallel.gathers_experts else SPECS

  def loss(w, x_TD, all_scores):
    shard = lambda *xs: inside.shard_map(
      functools.partial(outputs_on_shard, config, mesh, names),
      mesh,
      in_specs=(specs, rows, rows, rows),
      out_specs=P(None, meshes.BATCH_AXES),
    )(*xs)
    run = tiny.in_stages(shard, mesh)
    out_NTD = run(w, x_TD, all_scores, TOKENS)
    return jnp.sum(out_NTD * PULL_TD), out_NTD

  all_scores = {name: scores(name) for name in names}
  run = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
  return jax.device_get(run(weights(names), X_TD, all_scores))


def check(mesh_name, dispatcher, expert_parallel, names):
  """Raises AssertionError where a mesh and one device differ."""
  names = tuple(names)
  want = expected(dispatcher, names)
  (of_w, of_x, of_scores), out_NTD = found(
    mesh_name, dispatcher, expert_parallel, names
  )
  total = np.zeros_like(of_x)
  for i, name in enumerate(names):
    (w, x, score), out_TD = want[name]
    total += x
    np.testing.assert_allclose(
      out_NTD[i], out_TD, RTOL, ATOL, err_msg=f'output of {name}'
    )
    got = {key: leaf[i] for key, leaf in of_w.items()}
    tiny.assert_close({name: got}, {name: w}, RTOL, ATOL)
    tiny.assert_close({name: of_scores[name]}, {name: score}, RTOL, ATOL)
  np.testing.assert_allclose(of_x, total, RTOL, ATOL * len(names))
