"""Few rows for CPU: values without a gradient, and which weights are read."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import fused
from helpers.fused import EXPERT_A, MIXED_A, A, E, K, T
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from moejax.moe.compute import base, cpu_few_rows, cpu_fused_swiglu

FEW = cpu_fused_swiglu.CpuFusedCompute()
LOOP = cpu_fused_swiglu.CpuFusedCompute(most_picked=0)
# Without a gradient: with one, the loop over rows computes the values too.
values = functools.partial(jax.jit, static_argnums=0)(fused.call)


def assert_near(got, want):
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max() + 1e-9)


@pytest.mark.parametrize('kind', EXPERT_A)
def test_values_equal_the_stages(kind):
  args = (fused.inputs(), EXPERT_A[kind])
  assert_near(values(FEW, *args), values(fused.STAGES, *args))


def test_any_list_also_a_token_twice_in_one_expert():
  token_A = jnp.asarray(np.random.default_rng(2).integers(0, T, A))
  token_A, expert_A = token_A.at[:6].set(5), MIXED_A.at[:6].set(1)
  args = (fused.inputs(), expert_A, token_A)
  assert_near(values(FEW, *args), values(fused.STAGES, *args))


def test_one_token_goes_to_each_expert_by_itself():
  x_TD, weight_A, *w = fused.inputs()
  one = (x_TD[:1], weight_A[:K], *w)
  expert_A = jnp.asarray([3, 0, E])
  assert_near(values(FEW, one, expert_A), values(fused.STAGES, one, expert_A))


def test_bfloat16_is_rounded_as_in_the_loop():
  args = (fused.inputs(jnp.bfloat16), MIXED_A)
  got, want = values(FEW, *args), values(LOOP, *args)
  assert got.dtype == want.dtype == jnp.bfloat16
  got, want = (np.asarray(x, np.float32) for x in (got, want))
  # The loop rounds a weighted row before its last product, this one the sum.
  assert np.abs(got - want).max() < 2**-7 * np.abs(want).max()


def test_weights_of_experts_without_rows_are_not_read():
  x_TD, weight_A, w_in, w_out = fused.inputs()
  want = values(FEW, (x_TD, weight_A, w_in, w_out), MIXED_A)
  without = jnp.asarray(sorted({*range(E)} - {*MIXED_A.tolist()}))
  assert without.tolist() == [2]
  w_in, w_out = (w.at[without].set(jnp.nan) for w in (w_in, w_out))
  got = values(FEW, (x_TD, weight_A, w_in, w_out), MIXED_A)
  np.testing.assert_array_equal(got, want)


def test_rows_are_in_the_order_of_the_experts_and_then_of_the_list():
  row_A = cpu_few_rows._rows(jnp.asarray([7, 2, 7, 2]))
  assert row_A.tolist() == [2, 0, 3, 1]


@pytest.mark.parametrize(
  ('compute', 'most'), [(FEW, [1, 8 * E]), (LOOP, []), (fused.STAGES, [])]
)
def test_lists_are_few_rows_up_to_eight_for_each_expert(compute, most):
  def picked(num):
    listed = fused.routing(jnp.ones(num), jnp.zeros(num, jnp.int32), num)
    return base.is_picked(compute, listed, E)

  assert [n for n in (1, 8 * E, 8 * E + 1) if picked(n)] == most


def test_inside_shard_map_equals_one_device():
  mesh = jax.make_mesh(
    (2,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]
  )

  def local(x_TD, weight_KT, expert_KT, w_in, w_out):
    inputs = (x_TD, weight_KT.reshape(-1), w_in, w_out)
    return fused.call(FEW, inputs, expert_KT.reshape(-1))

  tokens, assignments = P('data'), P(None, 'data')
  specs = (tokens, assignments, assignments, P(), P())
  sharded = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=tokens)
  x_TD, weight_A, *w = fused.inputs()
  by_token = (weight_A.reshape(K, T), MIXED_A.reshape(K, T))
  got = jax.jit(sharded)(x_TD, *by_token, *w)
  assert_near(got, values(fused.STAGES, fused.inputs(), MIXED_A))
