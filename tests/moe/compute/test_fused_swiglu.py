"""What the loop for CPU and the kernels for accelerators have in common."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import fused
from helpers.fused import EXPERT_A, MIXED_A, A, D, E, K, T
from jax.experimental.pallas import tpu as pallas_tpu
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from moejax.moe.compute.pallas_fused_swiglu import (
  PallasFusedCompute,
  PallasFusedSwiglu,
)

FUSED = {'cpu': fused.CPU, 'pallas': fused.PALLAS, 'remat': fused.REMAT}
EACH = pytest.mark.parametrize('compute', FUSED.values(), ids=FUSED)
# REMAT differs in what the gradient computes once more, not in the lists.
BOTH = pytest.mark.parametrize(
  'compute', [fused.CPU, fused.PALLAS], ids=['cpu', 'pallas']
)


@EACH
@pytest.mark.parametrize('kind', EXPERT_A)
def test_values_and_gradients_equal_the_stages(kind, compute):
  args = (fused.inputs(), EXPERT_A[kind])
  got = fused.outcome(compute, *args)
  fused.assert_same(got, fused.outcome(fused.STAGES, *args))


@BOTH
def test_any_list_also_a_token_twice_in_one_expert(compute):
  token_A = jnp.asarray(np.random.default_rng(2).integers(0, T, A))
  token_A, expert_A = token_A.at[:6].set(5), MIXED_A.at[:6].set(1)
  args = (fused.inputs(), expert_A, token_A)
  got = fused.outcome(compute, *args)
  fused.assert_same(got, fused.outcome(fused.STAGES, *args))


@EACH
def test_exact_zeros_where_nothing_flows(compute):
  expert_A = jnp.where(fused.TOKEN_A == 7, E, MIXED_A)
  assert np.sum(expert_A == E) > 3
  out_TD, dx_TD, dweight_A, *dw = map(
    np.asarray, fused.outcome(compute, fused.inputs(), expert_A)
  )
  assert all(np.all(np.isfinite(z)) for z in (out_TD, dx_TD, *dw))
  assert not np.any(out_TD[7])
  assert not np.any(dx_TD[7])
  assert not np.any(dweight_A[np.asarray(expert_A) == E])
  assert np.all(dweight_A[np.asarray(expert_A) < E])
  assert not any(np.any(z[2]) for z in dw)


# Of another type, so each is compiled once more.
@pytest.mark.parametrize(
  'compute',
  [
    fused.CPU,
    pytest.param(fused.PALLAS, marks=pytest.mark.soak),
    pytest.param(fused.REMAT, marks=pytest.mark.soak),
  ],
  ids=FUSED,
)
def test_bfloat16_stays_near_float32(compute):
  inputs = fused.inputs(jnp.bfloat16)
  exact = jax.tree.map(lambda x: x.astype(jnp.float32), inputs)
  got = fused.outcome(compute, inputs, MIXED_A)
  want = fused.outcome(fused.STAGES, exact, MIXED_A)
  for a, b, x in zip(got, want, (inputs[0], *inputs), strict=True):
    assert a.dtype == x.dtype
    # Rounded to 8 bits, by at most 2^-9 of itself, half a dozen times.
    error = np.abs(np.asarray(a, np.float32) - b).max()
    assert error < 2**-6 * np.abs(b).max()


# Pallas's plain interpreter refuses arrays that vary over a mesh.
ON_MESH = PallasFusedCompute(
  PallasFusedSwiglu(
    dataclasses.replace(fused.KERNEL, interpret=pallas_tpu.InterpretParams())
  )
)


@pytest.mark.parametrize(
  'compute',
  [fused.CPU, pytest.param(ON_MESH, marks=pytest.mark.soak)],
  ids=['cpu', 'pallas'],
)
def test_inside_shard_map_equals_one_device(compute):
  mesh = jax.make_mesh(
    (2,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]
  )

  def local(x_TD, weight_KT, expert_KT, w_in, w_out):
    inputs = (x_TD, weight_KT.reshape(-1), w_in, w_out)
    return fused.call(compute, inputs, expert_KT.reshape(-1))

  tokens, assignments = P('data'), P(None, 'data')
  sharded = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(tokens, assignments, assignments, P(), P()),
    out_specs=tokens,
  )

  def loss(inputs):
    x_TD, weight_A, *w = inputs
    weight_KT, expert_KT = weight_A.reshape(K, T), MIXED_A.reshape(K, T)
    out_TD = sharded(x_TD, weight_KT, expert_KT, *w)
    return jnp.vdot(fused.PULL_TD, out_TD), out_TD

  inputs = fused.inputs()
  (_, out_TD), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(inputs)
  assert out_TD.shape == (T, D)
  want = fused.outcome(fused.STAGES, inputs, MIXED_A)
  fused.assert_same((out_TD, *grads), want)
