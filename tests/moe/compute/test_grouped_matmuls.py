import dataclasses
import functools
import importlib.util
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pallas_tpu
from jax.experimental.pallas.ops.tpu.megablox.gmm import make_group_metadata
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from moejax.core import errors
from moejax.moe.compute import (
  blocks,
  grouped_matmuls,
  implementations,
  pallas_grouped_matmul,
  triton_grouped_matmul,
)
from moejax.moe.config import MoEConfig

R, D, F = 40, 5, 7
# Entries of the table that need other fields to be of use at this size, or to
# run on this machine at all. The others are made as they are.
SMALL = {
  'blocked': grouped_matmuls.Blocked(blocks.Blocks(block=2, ladder=(4, 2, 1))),
  # Interpreted; memory not yet written to is NaN.
  'megablox': pallas_grouped_matmul.Megablox((8, 128, 128), interpret=True),
  'triton': triton_grouped_matmul.Triton((16, 16, 16), interpret=True),
}
ALL = {
  name: SMALL.get(name) or make()
  for name, make in grouped_matmuls.GROUPED_MATMULS.items()
}
# For groups of any size.
MULTIPLIERS = {name: m for name, m in ALL.items() if name != 'batched'}
# Pallas's plain interpreter refuses arrays that vary over a mesh; that of TPUs
# refuses to be recomputed. There is none for GPUs: see test_gpu_compile.py.
IN_SHARD_MAP = MULTIPLIERS | {
  'megablox': dataclasses.replace(
    SMALL['megablox'], interpret=pallas_tpu.InterpretParams()
  )
}
del IN_SHARD_MAP['triton']
SIZES = {
  'an empty expert': [6, 0, 22, 4],
  'one takes all': [0, 0, 40, 0],
  'the first is empty': [0, 2, 2, 8],
  'nobody has a row': [0, 0, 0, 0],
}
EQUAL = [10, 10, 10, 10]


def _inputs(dtype=jnp.float32):
  rng = np.random.default_rng(0)
  return tuple(
    jnp.asarray(rng.normal(size=shape), dtype)
    for shape in ((R, D), (4, D, F), (R, F))
  )


def _with_gradients(multiply):
  """(x, w, dy, sizes) -> (y, dx, dw)."""

  def run(x_RD, w_EDF, dy_RF, size_E):
    y_RF, pull = jax.vjp(lambda x, w: multiply(x, w, size_E), x_RD, w_EDF)
    return y_RF, *pull(dy_RF)

  return jax.jit(run)


RUN = {name: _with_gradients(m) for name, m in ALL.items()}


def _slowly(x_RD, w_EDF, dy_RF, sizes):
  """(y, dx, dw) by numpy, expert by expert."""
  x_RD, w_EDF, dy_RF = (np.asarray(z, np.float64) for z in (x_RD, w_EDF, dy_RF))
  y_RF, dx_RD, dw_EDF = np.zeros((R, F)), np.zeros((R, D)), np.zeros((4, D, F))
  start = 0
  for expert, size in enumerate(sizes):
    rows = slice(start, start + size)
    y_RF[rows] = x_RD[rows] @ w_EDF[expert]
    dx_RD[rows] = dy_RF[rows] @ w_EDF[expert].T
    dw_EDF[expert] = x_RD[rows].T @ dy_RF[rows]
    start += size
  return y_RF, dx_RD, dw_EDF


@pytest.fixture(autouse=True)
def tokamax(monkeypatch):
  """A stand-in, as unkind as the real one is allowed to be."""

  def ragged_dot_general(a, b, size_E, dims, **options):
    assert a.shape[0] % 128 == 0  # else it quietly takes no kernel
    assert options.pop('implementation') is None
    y = jax.lax.ragged_dot_general(a, b, size_E, dims, **options)
    if dims.rhs_group_dimensions:
      known = (jnp.arange(y.shape[0]) < jnp.sum(size_E))[:, None]
    else:
      known = (size_E > 0)[:, None, None]
    return jnp.where(known, y, jnp.nan)

  module = types.ModuleType('tokamax')
  module.ragged_dot_general = ragged_dot_general
  monkeypatch.setitem(sys.modules, 'tokamax', module)


def test_every_line_of_the_table_is_tested():
  assert set(ALL) == set(grouped_matmuls.GROUPED_MATMULS)
  for name, multiply in ALL.items():
    assert isinstance(multiply, grouped_matmuls.GROUPED_MATMULS[name])


@pytest.mark.parametrize('sizes', SIZES.values(), ids=SIZES)
@pytest.mark.parametrize('name', MULTIPLIERS)
def test_values_and_gradients_equal_numpy(name, sizes):
  got = RUN[name](*_inputs(), jnp.array(sizes, jnp.int32))
  for a, b in zip(got, _slowly(*_inputs(), sizes), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize('name', ALL)
def test_equal_groups(name):
  got = RUN[name](*_inputs(), jnp.array(EQUAL, jnp.int32))
  for a, b in zip(got, _slowly(*_inputs(), EQUAL), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize('name', MULTIPLIERS)
def test_unused_rows_and_empty_experts_give_exact_zeros(name):
  y_RF, dx_RD, dw_EDF = RUN[name](*_inputs(), jnp.array([6, 0, 22, 4]))
  assert not np.any(y_RF[32:])
  assert not np.any(dx_RD[32:])
  assert not np.any(dw_EDF[1])
  assert np.all(np.any(np.asarray(y_RF[:32]), axis=1))


@pytest.mark.parametrize('name', MULTIPLIERS)
def test_bfloat16_is_summed_in_float32(name):
  sizes = [6, 0, 22, 4]
  inputs = _inputs(jnp.bfloat16)
  got = _with_gradients(MULTIPLIERS[name])(*inputs, jnp.array(sizes))
  for a, b in zip(got, _slowly(*inputs, sizes), strict=True):
    assert a.dtype == jnp.bfloat16
    # Half a unit in the last of 8 bits is 2^-9 of the value, and no more.
    np.testing.assert_allclose(
      np.asarray(a, np.float64), b, rtol=2**-8, atol=1e-5
    )


@pytest.mark.parametrize('name', ['blocked', 'megablox', 'tokamax', 'triton'])
def test_float32_weights_with_bfloat16_rows_keep_float32_gradients(name):
  x_RD, w_EDF, dy_RF = _inputs()
  x_RD, dy_RF = x_RD.astype(jnp.bfloat16), dy_RF.astype(jnp.bfloat16)
  y_RF, _, dw_EDF = RUN[name](x_RD, w_EDF, dy_RF, jnp.array([6, 0, 22, 4]))
  assert y_RF.dtype == jnp.bfloat16
  assert dw_EDF.dtype == jnp.float32
  want = _slowly(x_RD, w_EDF, dy_RF, [6, 0, 22, 4])[2]
  np.testing.assert_allclose(dw_EDF, want, atol=2e-5)


@functools.cache
def _under_scan_and_checkpoint(name):
  x_RD, w_EDF, _ = _inputs()
  w_LEDD = jnp.stack([w_EDF[:, :, :D], w_EDF[:, :, 2:]]) / 3
  size_E = jnp.array([6, 0, 22, 4])

  def loss(multiply, x_RD, w_LEDD):
    @jax.checkpoint
    def layer(x_RD, w_EDD):
      return x_RD + jnp.tanh(multiply(x_RD, w_EDD, size_E)), None

    return jnp.sum(jax.lax.scan(layer, x_RD, w_LEDD)[0] ** 2)

  grad = jax.jit(jax.grad(loss, argnums=(1, 2)), static_argnums=0)
  return grad(MULTIPLIERS[name], x_RD, w_LEDD)


# Interpreted, the kernels take a second each; they are recomputed as `blocked`.
KERNELS = {'megablox', 'triton'}


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.soak] if name in KERNELS else [])
    for name in MULTIPLIERS
  ],
)
def test_under_scan_and_checkpoint(name):
  got = _under_scan_and_checkpoint(name)
  want = _under_scan_and_checkpoint('reference')
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.soak] if name == 'megablox' else [])
    for name in IN_SHARD_MAP
  ],
)
def test_inside_shard_map_the_gradient_to_shared_weights_is_the_sum(name):
  mesh = jax.make_mesh(
    (2,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]
  )
  x_RD, w_EDF, dy_RF = _inputs()
  sizes = [[6, 0, 10, 4], [0, 20, 0, 0]]
  split = P('data')

  def local(x_RD, w_EDF, size_1E):
    return IN_SHARD_MAP[name](x_RD, w_EDF, size_1E[0])

  multiply = jax.shard_map(
    local, mesh=mesh, in_specs=(split, P(), split), out_specs=split
  )
  run = _with_gradients(multiply)
  got = run(x_RD, w_EDF, dy_RF, jnp.array(sizes))
  first = _slowly_half(x_RD[:20], w_EDF, dy_RF[:20], sizes[0])
  second = _slowly_half(x_RD[20:], w_EDF, dy_RF[20:], sizes[1])
  np.testing.assert_allclose(got[0][:20], first[0], atol=2e-5)
  np.testing.assert_allclose(got[0][20:], second[0], atol=2e-5)
  np.testing.assert_allclose(got[2], first[2] + second[2], atol=2e-5)


def _slowly_half(x_RD, w_EDF, dy_RF, sizes):
  pad = [(0, 20), (0, 0)]
  y, dx, dw = _slowly(np.pad(x_RD, pad), w_EDF, np.pad(dy_RF, pad), sizes)
  return y[:20], dx[:20], dw


def test_auto_never_takes_ragged_dot_on_cpu():
  assert 'ragged_dot' not in implementations.AUTO['cpu']


@pytest.mark.parametrize(
  ('platform', 'name'),
  [('tpu', 'fused_megablox'), ('gpu', 'triton'), ('cpu', 'fused')],
)
def test_what_auto_takes(platform, name):
  config = MoEConfig(num_experts=4)
  chosen = implementations.choose(config, platform)
  by_name = dataclasses.replace(config, grouped_matmul=name)
  assert chosen == implementations.choose(by_name, platform)


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    ('megablox', 'moe.grouped_matmul=megablox runs on tpu alone; use auto'),
    ('triton', 'runs on gpu and cuda and rocm alone; use auto'),
    ('tokamax', "needs the package tokamax: pip install 'moejax[tokamax]'"),
  ],
)
def test_what_is_not_for_this_machine_is_one_line(name, words, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda _: None)
  config = MoEConfig(num_experts=4, grouped_matmul=name)
  with pytest.raises(errors.InputError) as caught:
    implementations.choose(config, 'cpu')
  assert words in str(caught.value)
  assert '\n' not in str(caught.value)


# By hand: 16 experts and 4,096 rows, so 8 * 16 * 128 > 4096: the least tile of
# rows. 1408 in pieces of at most 1024 is twice 704, in whole lanes 768.
@pytest.mark.parametrize(
  ('shape', 'experts', 'dtypes', 'tiling'),
  [
    ((4096, 2048, 1408), 16, ('bfloat16', 'bfloat16'), (128, 1024, 768)),
    ((4096, 2048, 1408), 16, ('bfloat16', 'float32'), (128, 512, 512)),
    ((65536, 200, 150), 16, ('float32', 'float32'), (512, 200, 150)),
    ((40, 5, 7), 4, ('float32', 'float32'), (48, 5, 7)),
    # 4,096 tiles of 1,024 rows, and less of the rest, which must fit.
    ((4096 * 1024, 2048, 256), 1, ('bfloat16', 'bfloat16'), (1024, 512, 256)),
  ],
)
def test_tiles_of_megablox(shape, experts, dtypes, tiling):
  rows, depth, width = shape
  x_RD = jax.ShapeDtypeStruct((rows, depth), jnp.dtype(dtypes[0]))
  size_E = jax.ShapeDtypeStruct((experts,), jnp.int32)
  multiply = pallas_grouped_matmul.Megablox()
  assert multiply._tiling(x_RD, width, size_E, dtypes[1]) == tiling


@pytest.mark.parametrize('tiles', [1, pallas_grouped_matmul.MOST_ROW_TILES])
def test_megablox_counts_so_many_tiles_rightly(tiles):
  # Tiles of two rows, and a boundary in the middle of each: it is visited
  # twice, by the group that ends in it and by the one that begins.
  count = functools.partial(
    make_group_metadata,
    m=2 * tiles,
    tm=2,
    start_group=np.int32(0),
    num_nonzero_groups=tiles + 1,
    visit_empty_groups=False,
  )
  size_E = np.array([1, *[2] * (tiles - 1), 1], np.int32)
  (_, groups, visited), number = jax.device_get(
    jax.jit(lambda size_E: count(group_sizes=size_E))(size_E)
  )
  assert number == 2 * tiles
  both = np.arange(2 * tiles)
  np.testing.assert_array_equal(visited[:number], both // 2)
  np.testing.assert_array_equal(groups[:number], (both + 1) // 2)
