"""What happens when buffers are full, and what travels."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import sharded, tiny
from jax.sharding import PartitionSpec as P

from moejax.moe import contract
from moejax.moe.compute import implementations
from moejax.moe.config import MoEConfig
from moejax.moe.dispatchers import DISPATCHERS
from moejax.moe.expert_parallel import EXPERT_PARALLEL
from moejax.moe.expert_parallel.all_to_all import AllToAll
from moejax.moe.expert_parallel.ragged import RaggedAllToAll
from moejax.parallel import collective_bytes
from moejax.parallel import mesh as meshes

D, E, T, K = sharded.D, sharded.E, sharded.T, 2
MESH = {'data': 2, 'expert': 4}
# All tokens want the experts of the first device: as uneven as can be.
SKEWED_TE = np.random.default_rng(0).normal(size=(T, E)).astype(np.float32)
SKEWED_TE[:, :2] += 20


def run_with(
  expert_parallel, logits_TE=SKEWED_TE, config=None, valid_T=sharded.VALID_T
):
  """out_TD, sent_A (as [devices, A]) and the overflow of all devices."""
  run, args = program(expert_parallel, logits_TE, config, valid_T)
  return run(*args)


def program(
  expert_parallel, logits_TE=SKEWED_TE, config=None, valid_T=sharded.VALID_T
):
  """What `run_with` calls, and the arguments."""
  config = config or MoEConfig(num_experts=E, expert_parallel=expert_parallel)
  one = tiny.mesh(8, **MESH)
  index_T, _, token_T = sharded.TOKENS
  w = {name: leaf[0] for name, leaf in sharded.weights(['top_k']).items()}
  specs = {name: P(*spec[1:]) for name, spec in sharded.SPECS.items()}

  def local(w, x_TD, logits_TE, tokens):
    routing = config.router(sharded.given(logits_TE, {}, tokens))
    routing = config.dispatcher.limit(routing, E, training=True)
    run = implementations.choose(config, 'cpu')
    found = config.expert_parallel(run, w, x_TD, routing, E)
    out_TD = jax.lax.psum(found.out_TD, 'model')
    lost = jax.lax.psum(found.overflow, meshes.BATCH_AXES)
    return out_TD, found.sent_A[None], lost

  rows = P(meshes.BATCH_AXES)
  run = jax.jit(
    jax.shard_map(
      local,
      mesh=one,
      in_specs=(specs, rows, rows, rows),
      out_specs=(rows, rows, P()),
    )
  )
  return run, (w, sharded.X_TD, logits_TE, (index_T, valid_T, token_T))


@functools.cache
def without_bounds():
  return jax.device_get(run_with(EXPERT_PARALLEL['all_gather']()))


BOUNDED = [
  (AllToAll(factor=1.0, overflow='drop'), 14 * K / 4),
  (RaggedAllToAll(factor=1.0, overflow='drop'), 14 * K / 4),
]


@pytest.mark.parametrize(
  'expert_parallel', [one for one, _ in BOUNDED], ids=['all_to_all', 'ragged']
)
def test_what_has_no_room_is_dropped_and_counted(expert_parallel):
  out_TD, sent_DA, lost = jax.device_get(run_with(expert_parallel))
  want_TD, asked_DA, nothing = without_bounds()
  assert nothing == 0
  assert lost == (asked_DA & ~sent_DA).sum()
  assert 0 < lost < asked_DA.sum()
  # A token all of whose assignments were sent has its whole output.
  whole_T = (sent_DA == asked_DA).reshape(8, K, -1).all(axis=1).reshape(-1)
  assert 0 < whole_T.sum() < T
  np.testing.assert_allclose(
    out_TD[whole_T], want_TD[whole_T], rtol=1e-5, atol=1e-5
  )
  changed_T = np.abs(out_TD - want_TD).max(axis=1) > 1e-4
  np.testing.assert_array_equal(changed_T[~whole_T], True)


@pytest.mark.parametrize('kind', [AllToAll, RaggedAllToAll])
def test_dropless_falls_back_for_the_layer_and_counts(kind):
  found = jax.device_get(run_with(kind(factor=1.0, overflow='dropless')))
  want = without_bounds()
  np.testing.assert_allclose(found[0], want[0], rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(found[1], want[1])
  assert found[2] > 0


@pytest.mark.parametrize(
  'expert_parallel',
  [
    EXPERT_PARALLEL['all_gather'](),
    AllToAll(factor=2.0, overflow='drop'),
    AllToAll(factor=9.0, overflow='drop'),
    RaggedAllToAll(factor=1.5, overflow='drop'),
    RaggedAllToAll(overflow='drop'),
  ],
)
def test_row_overhead_is_how_many_rows_the_experts_compute(
  expert_parallel, monkeypatch
):
  given, dot = [], jax.lax.ragged_dot

  def ragged_dot(x_RD, *more, **options):
    given.append(x_RD.shape[0])
    return dot(x_RD, *more, **options)

  monkeypatch.setattr(jax.lax, 'ragged_dot', ragged_dot)
  config = MoEConfig(
    num_experts=E, expert_parallel=expert_parallel, grouped_matmul='ragged_dot'
  )
  run, args = program(expert_parallel, config=config)
  run.trace(*args)
  # A device's own: all tokens over 8 devices, K experts each.
  assert {rows / (T // 8 * K) for rows in given} == {
    expert_parallel.row_overhead(4)
  }


@pytest.mark.parametrize(
  'expert_parallel',
  [RaggedAllToAll(), AllToAll(factor=4.0, chunks=3)],
  ids=['ragged', 'all_to_all in chunks'],
)
def test_room_for_all_is_never_too_little(expert_parallel):
  """Chunks travel one by one, and change nothing."""
  out_TD, _, lost = jax.device_get(run_with(expert_parallel))
  assert lost == 0
  np.testing.assert_allclose(out_TD, without_bounds()[0], rtol=1e-5, atol=1e-5)


def moved_by(expert_parallel, *, gradient):
  """Bytes by kind of collective in the compiled program, of one device."""
  config = MoEConfig(num_experts=E, expert_parallel=expert_parallel)
  # One row of experts: nothing else communicates.
  mesh = tiny.mesh(4, data=1, expert=4)
  tokens = 32  # on each device
  x = np.zeros((4 * tokens, D), np.float32)
  w = {name: leaf[0] for name, leaf in sharded.weights(['top_k']).items()}
  gathered = expert_parallel.gathers_experts
  specs = sharded.GATHERED if gathered else sharded.SPECS
  specs = {name: P(*spec[1:]) for name, spec in specs.items()}
  w = {
    name: jax.ShapeDtypeStruct(
      leaf.shape,
      leaf.dtype,
      sharding=jax.NamedSharding(mesh, P(*sharded.SPECS[name][1:])),
    )
    for name, leaf in w.items()
  }

  def local(w, x_TD, weight_A, expert_A):
    routing = contract.Routing(
      token_A=jnp.tile(jnp.arange(tokens, dtype=jnp.int32), K),
      expert_A=expert_A,
      weight_A=weight_A,
      prob_TE=jnp.zeros((tokens, E)),
      per_token=K,
    )
    run = implementations.choose(config, 'cpu')
    call = run if gathered else functools.partial(config.expert_parallel, run)
    out_TD = call(w, x_TD, routing, E).out_TD
    return jax.lax.psum(out_TD, 'model')

  rows = P('expert')

  def output(w, x, weight_A, expert_A):
    return jax.shard_map(
      local, mesh=mesh, in_specs=(specs, rows, rows, rows), out_specs=rows
    )(w, x, weight_A, expert_A)

  def loss(*given):
    return jnp.sum(output(*given) ** 2)

  run = jax.grad(loss, argnums=(0, 1, 2)) if gradient else output
  place = jax.NamedSharding(mesh, rows)
  shape = lambda x, dtype: jax.ShapeDtypeStruct(x, dtype, sharding=place)
  compiled = (
    jax
    .jit(run)
    .lower(
      w,
      shape(x.shape, np.float32),
      shape((4 * tokens * K,), np.float32),
      shape((4 * tokens * K,), np.int32),
    )
    .compile()
  )
  found = collective_bytes.collectives(compiled.as_text())
  numbers = collections.Counter()
  for one in found:
    numbers[one.kind] += one.times * (one.sent > 0)
  return collective_bytes.by_kind(found), dict(+numbers)


def test_capacity_travels_ragged_without_a_second_limit():
  """Each of 4 devices may send expert 0 two rows, eight in all; a limit over
  the 14 rows that a receiver has room for would leave seven.
  """
  logits_TE = np.full((T, E), -5.0, np.float32)
  logits_TE[:, 0], logits_TE[:, 7] = 5, 0
  found = []
  for expert_parallel in (
    RaggedAllToAll(factor=1.0),
    EXPERT_PARALLEL['all_gather'](),
  ):
    config = MoEConfig(
      num_experts=E,
      dispatcher=DISPATCHERS['capacity'](),
      expert_parallel=expert_parallel,
    )
    found.append(run_with(expert_parallel, logits_TE, config, np.ones(T, bool)))
  (got_TD, _, lost), (want_TD, _, _) = found
  assert lost == 0
  np.testing.assert_allclose(got_TD, want_TD, rtol=1e-5, atol=1e-5)


# P = 4 devices with 32 tokens each, K = 2: A = 64 assignments; D = F = 4.
P_, A, ROW = 4, 64, 4 * D
C = A // P_
EXPERTS = E * (D * 2 * sharded.F + sharded.F * D) * 4
FORWARD = {
  'all_to_all': {'all-to-all': 2 * (P_ - 1) * C * ROW + (P_ - 1) * C * 4},
  'all_gather': {
    'all-gather': (P_ - 1) * 32 * ROW + 2 * (P_ - 1) * A * 4,
    'reduce-scatter': (P_ - 1) * 32 * ROW,
  },
  'gather_experts': {'all-gather': (P_ - 1) / P_ * EXPERTS},
}
BOTH = {
  'all_to_all': {'all-to-all': 4 * (P_ - 1) * C * ROW + (P_ - 1) * C * 4},
  # As many rows again, and the gradients of the weights on their way back.
  'all_gather': {
    'all-gather': 2 * (P_ - 1) * 32 * ROW + 2 * (P_ - 1) * A * 4,
    'reduce-scatter': 2 * (P_ - 1) * 32 * ROW + (P_ - 1) * A * 4,
  },
  # The experts' gradients: XLA for CPU sums them on all devices, twice the
  # bytes of a reduce-scatter.
  'gather_experts': {
    'all-gather': (P_ - 1) / P_ * EXPERTS,
    'all-reduce': 2 * (P_ - 1) / P_ * EXPERTS,
  },
}


# Collectives of a pass forward. all_to_all: rows to the experts, the numbers of
# these experts, rows back. all_gather: rows, their experts, their weights; then
# sums. gather_experts: both weights of the experts.
NUMBERS = {
  'all_to_all': {'all-to-all': 3},
  'all_gather': {'all-gather': 3, 'reduce-scatter': 1},
  'gather_experts': {'all-gather': 2},
}


@pytest.mark.parametrize('name', sorted(FORWARD))
def test_bytes_are_those_of_the_docstring(name):
  expert_parallel = EXPERT_PARALLEL[name]()
  if name == 'all_to_all':
    expert_parallel = AllToAll(factor=1.0, overflow='drop')
  num_bytes, numbers = moved_by(expert_parallel, gradient=False)
  assert num_bytes == FORWARD[name]
  assert numbers == NUMBERS[name]


@pytest.mark.soak
@pytest.mark.parametrize('name', sorted(BOTH))
def test_bytes_with_the_gradient(name):
  expert_parallel = EXPERT_PARALLEL[name]()
  if name == 'all_to_all':
    expert_parallel = AllToAll(factor=1.0, overflow='drop')
  assert moved_by(expert_parallel, gradient=True)[0] == BOTH[name]


def test_on_accelerators_rows_travel_ragged():
  """Rows there, their experts' numbers, rows back; nothing is gathered."""
  mesh = tiny.mesh(4, data=1, expert=4)
  config = MoEConfig(num_experts=E, expert_parallel=RaggedAllToAll(factor=1.0))
  config = dataclasses.replace(
    config,
    expert_parallel=dataclasses.replace(
      config.expert_parallel, overflow='drop'
    ),
  )
  w = {name: leaf[0] for name, leaf in sharded.weights(['top_k']).items()}
  specs = {name: P(*spec[1:]) for name, spec in sharded.SPECS.items()}

  def local(w, x_TD, logits_TE, tokens):
    routing = config.router(sharded.given(logits_TE, {}, tokens))
    run = implementations.choose(config, 'cpu')
    out_TD = config.expert_parallel(run, w, x_TD, routing, E).out_TD
    return jax.lax.psum(out_TD, 'model')

  rows = P(meshes.BATCH_AXES)
  run = jax.shard_map(
    local, mesh=mesh, in_specs=(specs, rows, rows, rows), out_specs=rows
  )
  traced = jax.jit(run).trace(w, sharded.X_TD, SKEWED_TE, sharded.TOKENS)
  for platform, ragged in (('tpu', 3), ('cuda', 3), ('cpu', 0)):
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count('@ragged_all_to_all(') == ragged, platform
