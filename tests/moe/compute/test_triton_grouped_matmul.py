"""What the kernels for GPUs have to themselves; see test_grouped_matmuls."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moejax.moe import contract
from moejax.moe.compute import implementations, triton_grouped_matmul
from moejax.moe.config import MoEConfig
from moejax.moe.dispatchers import DISPATCHERS

TILE = 4
GPU = 'gpu'


MOST, EXPERTS = 11, 5


@jax.jit
def _table(size_E):
  num_tiles = EXPERTS * MOST // TILE + EXPERTS
  return triton_grouped_matmul.tile_table(size_E, TILE, num_tiles)


@given(st.lists(st.integers(0, MOST), min_size=EXPERTS, max_size=EXPERTS))
def test_each_row_is_in_one_tile_of_its_expert(sizes):
  expert_N, begin_N, end_N = map(np.asarray, _table(jnp.array(sizes)))
  needed = sum(sizes) // TILE + EXPERTS
  assert np.array_equal(begin_N[needed:], end_N[needed:])
  owners = np.repeat(np.arange(len(sizes)), sizes)
  seen = np.zeros(len(owners), int)
  for expert, begin, end in zip(expert_N, begin_N, end_N, strict=True):
    rows = np.arange(begin, min(begin + TILE, end))
    seen[rows] += 1
    assert np.all(owners[rows] == expert)
  assert np.all(seen == 1)


def test_a_tile_of_the_last_rows_reads_nothing_beyond_the_array():
  """17 rows in tiles of 16: the second tile begins at row 1."""
  matmul = triton_grouped_matmul.Triton((16, 16, 16), interpret=True)
  x_RD, w_EDF = jnp.ones((17, 16)), jnp.ones((1, 16, 16))
  y_RF, pull = jax.vjp(lambda x, w: matmul(x, w, jnp.array([17])), x_RD, w_EDF)
  dx_RD, dw_EDF = pull(jnp.ones((17, 16)))
  np.testing.assert_array_equal(y_RF, np.full((17, 16), 16))
  np.testing.assert_array_equal(dx_RD, np.full((17, 16), 16))
  np.testing.assert_array_equal(dw_EDF, np.full((1, 16, 16), 17))


@pytest.mark.parametrize(('begin', 'end'), [(0, 3), (5, 16), (18, 20)])
def test_a_tile_writes_no_row_of_another(begin, end):
  """On a GPU tiles are written at the same time, in no order."""
  matmul = triton_grouped_matmul.Triton((16, 16, 16), interpret=True)
  w_EDF = jnp.zeros((3, 16, 16)).at[1].set(1)
  size_E = jnp.array([begin, end - begin, 20 - end])
  y_RF = matmul.rows(jnp.ones((20, 16)), w_EDF, size_E, transpose=False)
  row_R = np.arange(20)
  own_R = (begin <= row_R) & (row_R < end)
  np.testing.assert_array_equal(np.all(y_RF == 16, axis=1), own_R)
  # The interpreter runs tiles in their order, so this one is the last.
  last = matmul.rows(
    jnp.ones((20, 16)), w_EDF[1:2], size_E[:1], transpose=False
  )
  assert not np.any(np.asarray(last)[begin:] == 16)


def _routed_experts(name, num_experts, dispatcher):
  """Traced forward and backward, with two experts for a token."""
  config = MoEConfig(
    num_experts=num_experts,
    expert_width=16,
    grouped_matmul=name,
    dispatcher=DISPATCHERS[dispatcher](),
  )
  width, num_tokens = 8, 512
  run = implementations.choose(config, GPU)
  params = config.experts.init(jax.random.key(0), num_experts, width, 16, 0.02)
  weights = {name: p[...] for name, p in params.items()}
  routing = config.router(
    contract.RouterInput(
      logits_TE=jnp.zeros((num_tokens, num_experts)),
      valid_T=jnp.ones(num_tokens, bool),
      index_T=jnp.arange(num_tokens),
      key=None,
      row_length=num_tokens,
    )
  )

  def loss(weights, x_TD):
    return jnp.sum(run(weights, x_TD, routing, num_experts).out_TD)

  x_TD = jnp.zeros((num_tokens, width))
  return jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(weights, x_TD)


def _equations(jaxpr):
  """All equations but those inside kernels, whose arrays are tiles."""
  for equation in jaxpr.eqns:
    yield equation
    if equation.primitive.name != 'pallas_call':
      for inner in jax.tree.leaves(
        [*equation.params.values()],
        is_leaf=lambda leaf: hasattr(leaf, 'jaxpr') or hasattr(leaf, 'eqns'),
      ):
        if hasattr(inner, 'jaxpr') or hasattr(inner, 'eqns'):
          yield from _equations(getattr(inner, 'jaxpr', inner))


def _is_dense(name, dispatcher):
  """Whether the program multiplies every row with every expert.

  `ragged_dot` does, as XLA compiles it for NVIDIA GPUs: tests/moe/
  test_gpu_compile.py. Others need an array with a number for each row, expert
  and column, or rows that grow with the number of experts.
  """
  largest = []
  for num_experts in (4, 64):
    equations = [
      *_equations(_routed_experts(name, num_experts, dispatcher).jaxpr)
    ]
    if any('ragged_dot' in e.primitive.name for e in equations):
      return True
    largest.append(max(v.aval.size for e in equations for v in e.outvars))
  return largest[1] > 2 * largest[0]


@pytest.mark.parametrize('dispatcher', ['dropless', 'capacity'])
def test_auto_does_no_work_for_each_expert_on_a_gpu(dispatcher):
  assert not _is_dense('auto', dispatcher)


@pytest.mark.parametrize('name', ['ragged_dot', 'reference'])
def test_dense_ways_are_seen_as_such(name):
  assert _is_dense(name, 'dropless')


def test_float32_is_rounded_as_the_setting_of_jax_says():
  matmul = dataclasses.replace(triton_grouped_matmul.Triton(), interpret=True)
  arguments = jnp.ones((16, 16)), jnp.ones((1, 16, 16)), jnp.array([16])

  def program():
    return str(jax.make_jaxpr(matmul)(*arguments))

  with jax.default_matmul_precision('highest'):
    exact = program()
  assert 'HIGHEST' in exact
  assert 'HIGHEST' not in program()
