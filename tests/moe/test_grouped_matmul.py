import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from moejax.moe import blocks, compute, grouped_matmul

R, D, F = 40, 5, 7
CUT = blocks.Blocks(block=2, ladder=(4, 2, 1))
MULTIPLIERS = {
  'reference': grouped_matmul.Reference(),
  'blocked': grouped_matmul.Blocked(CUT),
  'ragged_dot': grouped_matmul.RaggedDot(),
}
# For equal groups alone.
BATCHED = {'batched': grouped_matmul.Batched()}
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


ALL = MULTIPLIERS | BATCHED
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


def test_every_line_of_the_table_is_tested():
  assert set(ALL) == set(grouped_matmul.GROUPED_MATMULS)
  for name, multiply in ALL.items():
    assert isinstance(multiply, grouped_matmul.GROUPED_MATMULS[name])


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


def test_float32_weights_with_bfloat16_rows_keep_float32_gradients():
  x_RD, w_EDF, dy_RF = _inputs()
  x_RD, dy_RF = x_RD.astype(jnp.bfloat16), dy_RF.astype(jnp.bfloat16)
  y_RF, _, dw_EDF = RUN['blocked'](x_RD, w_EDF, dy_RF, jnp.array([6, 0, 22, 4]))
  assert y_RF.dtype == jnp.bfloat16
  assert dw_EDF.dtype == jnp.float32
  want = _slowly(x_RD, w_EDF, dy_RF, [6, 0, 22, 4])[2]
  np.testing.assert_allclose(dw_EDF, want, atol=2e-5)


@pytest.mark.parametrize('name', MULTIPLIERS)
def test_under_scan_and_checkpoint(name):
  x_RD, w_EDF, _ = _inputs()
  w_LEDD = jnp.stack([w_EDF[:, :, :D], w_EDF[:, :, 2:]]) / 3
  size_E = jnp.array([6, 0, 22, 4])

  def loss(multiply, x_RD, w_LEDD):
    @jax.checkpoint
    def layer(x_RD, w_EDD):
      return x_RD + jnp.tanh(multiply(x_RD, w_EDD, size_E)), None

    return jnp.sum(jax.lax.scan(layer, x_RD, w_LEDD)[0] ** 2)

  grad = jax.jit(jax.grad(loss, argnums=(1, 2)), static_argnums=0)
  got = grad(MULTIPLIERS[name], x_RD, w_LEDD)
  want = grad(MULTIPLIERS['reference'], x_RD, w_LEDD)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize('name', MULTIPLIERS)
def test_inside_shard_map_the_gradient_to_shared_weights_is_the_sum(name):
  mesh = jax.make_mesh(
    (2,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]
  )
  x_RD, w_EDF, dy_RF = _inputs()
  sizes = [[6, 0, 10, 4], [0, 20, 0, 0]]
  split = P('data')

  def local(x_RD, w_EDF, size_1E):
    return MULTIPLIERS[name](x_RD, w_EDF, size_1E[0])

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
  assert 'ragged_dot' not in compute.AUTO['cpu']
