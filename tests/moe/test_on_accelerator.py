"""Kernels equal slow loops, forward and gradient: on a GPU, a TPU, or here.

On an accelerator, with `cuda` in place of `tpu` for a GPU:

  export MOEJAX_TEST_PLATFORM=tpu
  python -m pytest -n 0 -m accelerator tests/moe/test_on_accelerator.py

No accelerator has run them yet. On CPU the same checks run with `make
test-soak`, kernels interpreted, so that the checks at least are known to work.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.moe import contract, self_check
from moejax.moe.compute import implementations, pallas_fused_swiglu
from moejax.moe.compute.grouped_matmuls import GROUPED_MATMULS
from moejax.moe.compute.pallas_grouped_matmul import Megablox
from moejax.moe.compute.triton_grouped_matmul import Triton
from moejax.moe.config import MoEConfig

# Rows, depth, width, experts; no multiple of a tile.
R, D, F, E = 1000, 200, 136, 8
SIZES = {
  'uneven, three are empty': [0, 130, 1, 0, 517, 255, 97, 0],
  'one has all': [0, 0, 0, R, 0, 0, 0, 0],
  'rows are left over': [3, 0, 200, 0, 64, 128, 5, 300],
  'nobody has a row': [0] * E,
}
# For groups of any size.
NAMES = sorted(
  name
  for name, make in GROUPED_MATMULS.items()
  if name != 'batched' and make().row_multiple == 1
)


def on(platform, *case):
  """A case with its mark: interpreted, on CPU, it is for the soak."""
  mark = pytest.mark.soak if platform == 'cpu' else pytest.mark.accelerator
  return pytest.param(platform, *case, marks=mark)


PLATFORMS = 'cpu', 'accelerator'
DTYPES = 'float32', 'bfloat16'


def backend(kind):
  """Where JAX runs, if that is of the kind that the test is for."""
  runs_on = jax.default_backend()
  if kind == 'cpu' and runs_on != 'cpu':
    pytest.skip(f'is for CPU, and JAX runs on {runs_on}')
  if kind != 'cpu' and runs_on == 'cpu':
    pytest.skip(
      'needs a GPU or a TPU, and MOEJAX_TEST_PLATFORM=cuda or tpu to use it'
    )
  return runs_on


@pytest.fixture
def platform(request):
  return backend(request.param)


def draw(*shapes, dtype):
  rng = np.random.default_rng(0)
  return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def near(got, want, tolerance):
  """By the largest value: float32 is multiplied in fewer bits there."""
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  assert np.all(np.isfinite(got))
  scale = np.abs(want).max(initial=0)
  assert np.abs(got - want).max(initial=0) <= tolerance * scale


def tolerance(platform, dtype, roundings=1):
  """Of the largest value; bfloat16 has 8 bits, as its products may have."""
  exact = platform == 'cpu' and dtype == 'float32'
  return 1e-5 if exact else 2**-7 * roundings


# A grouped matmul.


def multiply_of(name, platform):
  """The table's entry, if it is for this platform, or can be interpreted."""
  made = GROUPED_MATMULS[name]()
  if isinstance(made, (Megablox, Triton)) and platform == 'cpu':
    return dataclasses.replace(made, interpret=True)
  config = MoEConfig(num_experts=E)
  if why := implementations.IMPLEMENTATIONS[name].refuses(config, platform):
    pytest.skip(f'{name} {why}')
  return made


@functools.cache
def with_gradient(multiply):
  def run(x_RD, w_EDF, pull_RF, size_E):
    y_RF, pull = jax.vjp(lambda x, w: multiply(x, w, size_E), x_RD, w_EDF)
    return y_RF, *pull(pull_RF)

  return jax.jit(run)


def check_multiply(multiply, sizes, dtype, tolerance):
  """Each expert by itself, since one may be small beside the others."""
  given = draw((R, D), (E, D, F), (R, F), dtype=dtype)
  y_RF, dx_RD, dw_EDF = jax.device_get(
    with_gradient(multiply)(*given, jnp.asarray(sizes, jnp.int32))
  )
  x_RD, w_EDF, pull_RF = (np.asarray(z, np.float64) for z in given)
  start = 0
  for e, size in enumerate(sizes):
    rows = slice(start, start + size)
    near(y_RF[rows], x_RD[rows] @ w_EDF[e], tolerance)
    near(dx_RD[rows], pull_RF[rows] @ w_EDF[e].T, tolerance)
    near(dw_EDF[e], x_RD[rows].T @ pull_RF[rows], tolerance)
    start += size
  assert not np.any(y_RF[start:])
  assert not np.any(dx_RD[start:])


@pytest.mark.parametrize('sizes', SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(
  ('platform', 'dtype'),
  [on(p, d) for p in PLATFORMS for d in DTYPES],
  indirect=['platform'],
)
@pytest.mark.parametrize('name', NAMES)
def test_grouped_matmul(name, dtype, sizes, platform):
  multiply = multiply_of(name, platform)
  check_multiply(multiply, sizes, dtype, tolerance(platform, dtype))


def of_the_next(x_RD, w_EDF, size_E):
  """Wrong: the last expert but one multiplies with the last one's weights."""
  w_EDF = w_EDF.at[E - 2].set(w_EDF[E - 1])
  return GROUPED_MATMULS['ragged_dot']()(x_RD, w_EDF, size_E)


@jax.custom_vjp
def without_gradient(x_RD, w_EDF, size_E):
  """Wrong: the gradient of an expert without rows is what was there."""
  return GROUPED_MATMULS['ragged_dot']()(x_RD, w_EDF, size_E)


def _forward(*given):
  y_RF, pull = jax.vjp(GROUPED_MATMULS['ragged_dot'](), *given)
  return y_RF, (pull, given[2])


def _backward(kept, dy_RF):
  pull, size_E = kept
  dx_RD, dw_EDF, _ = pull(dy_RF)
  return dx_RD, jnp.where(size_E[:, None, None] > 0, dw_EDF, 7), None


without_gradient.defvjp(_forward, _backward)


@pytest.mark.parametrize('wrong', [of_the_next, without_gradient])
def test_a_wrong_matmul_is_seen(wrong):
  sizes = SIZES['uneven, three are empty']
  with pytest.raises(AssertionError):
    check_multiply(wrong, sizes, 'float32', tolerance('tpu', 'float32'))


# SwiGLU experts by the kernels that finish what they have at hand.

T, K = 250, 4  # T * K = R


@functools.cache
def swiglu_with_gradient(run):
  """(x, weights, experts), pull, expert_A -> out_TD and all gradients."""

  def loss(given, pull_TD, expert_A):
    x_TD, weight_A, w_in, w_out = given
    routing = contract.Routing(
      token_A=jnp.arange(R) % T,
      expert_A=expert_A,
      weight_A=weight_A,
      prob_TE=jnp.zeros((T, E)),
      per_token=K,
    )
    w = {'w_in_ED2F': w_in, 'w_out_EFD': w_out}
    out_TD = run(w, x_TD, routing, E).out_TD
    return jnp.vdot(pull_TD, out_TD.astype(jnp.float32)), out_TD

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


def check_swiglu(run, sizes, dtype, tolerance):
  """Output and gradients of tokens, assignments' weights and experts."""
  shapes = (T, D), (R,), (E, D, 2, F), (E, F, D), (T, D)
  x_TD, weight_A, *w, pull_TD = draw(*shapes, dtype=dtype)
  given = (x_TD, weight_A.astype(jnp.float32), *w)
  pull_TD = pull_TD.astype(jnp.float32)
  expert_A = np.repeat(np.arange(E + 1), [*sizes, R - sum(sizes)])
  expert_A = np.random.default_rng(1).permutation(expert_A).astype(np.int32)
  (_, out_TD), of = jax.device_get(
    swiglu_with_gradient(run)(given, pull_TD, expert_A)
  )
  exact = (np.asarray(z, np.float64) for z in (*given, pull_TD))
  want = swiglu_slowly(*exact, expert_A)
  for a, b in zip((out_TD, *of[:2]), want[:3], strict=True):
    near(a, b, tolerance)
  for a, b in zip(of[2:], want[3:], strict=True):
    for e in range(E):
      near(a[e], b[e], tolerance)


def swiglu_slowly(x_TD, weight_A, w_in, w_out, pull_TD, expert_A):
  """The output and all gradients, one expert after the other."""
  out_TD, dx_TD = np.zeros_like(x_TD), np.zeros_like(x_TD)
  dweight_A, dw_in, dw_out = map(np.zeros_like, (weight_A, w_in, w_out))
  for e in range(E):
    (a,) = np.nonzero(expert_A == e)
    t, weight_N1 = a % T, weight_A[a][:, None]
    gate_NF, up_NF = x_TD[t] @ w_in[e, :, 0], x_TD[t] @ w_in[e, :, 1]
    s_NF = 1 / (1 + np.exp(-gate_NF))
    y_ND = (gate_NF * s_NF * up_NF) @ w_out[e]
    np.add.at(out_TD, t, weight_N1 * y_ND)
    dweight_A[a] = (y_ND * pull_TD[t]).sum(axis=1)
    dy_ND = weight_N1 * pull_TD[t]
    dw_out[e] = (gate_NF * s_NF * up_NF).T @ dy_ND
    da_NF = dy_ND @ w_out[e].T
    dup_NF = da_NF * gate_NF * s_NF
    dgate_NF = da_NF * up_NF * s_NF * (1 + gate_NF * (1 - s_NF))
    np.add.at(dx_TD, t, dgate_NF @ w_in[e, :, 0].T + dup_NF @ w_in[e, :, 1].T)
    dw_in[e] = np.stack([x_TD[t].T @ dgate_NF, x_TD[t].T @ dup_NF], axis=1)
  return out_TD, dx_TD, dweight_A, dw_in, dw_out


@pytest.mark.parametrize('sizes', SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(
  ('platform', 'dtype', 'keep'),
  [on(p, d, keep) for p in PLATFORMS for d in DTYPES for keep in (True, False)],
  indirect=['platform'],
)
def test_pallas_fused_swiglu(keep, dtype, sizes, platform):
  kernel = multiply_of('megablox', platform)
  run = pallas_fused_swiglu.PallasFusedCompute(
    pallas_fused_swiglu.PallasFusedSwiglu(kernel, keep=keep)
  )
  check_swiglu(run, sizes, dtype, tolerance(platform, dtype, 4))


# A whole layer, with what `auto` takes here.


@pytest.mark.parametrize(
  ('platform', 'dtype'),
  [on(p, d) for p in PLATFORMS for d in DTYPES],
  indirect=['platform'],
)
def test_a_dropless_layer(dtype, platform):
  """Is the reference dispatcher's and matmul's, one expert being empty."""
  config = MoEConfig(num_experts=E, expert_width=F)
  size = self_check.Size(rows=4, row_length=125, width=D, hidden=F)
  found = self_check.differences(config, dtype, tiny.mesh(), size)
  assert len(found) > 3
  limit = self_check.TOLERANCE[dtype]
  if platform != 'cpu':
    limit = max(limit, self_check.TOLERANCE_ACCELERATOR)
  assert max(found.values()) <= limit, found


def test_without_an_accelerator_they_say_what_they_need():
  other = 'cpu' if jax.default_backend() != 'cpu' else 'accelerator'
  words = 'is for CPU' if other == 'cpu' else 'needs a GPU or a TPU'
  with pytest.raises(pytest.skip.Exception, match=words):
    backend(other)
