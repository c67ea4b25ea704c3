import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pallas_tpu
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from moejax.moe import contract, experts
from moejax.moe.compute import (
  grouped_matmuls,
  pallas_grouped_matmul,
  staged,
)
from moejax.moe.compute.pallas_fused_swiglu import (
  PallasFusedCompute,
  PallasFusedSwiglu,
)
from moejax.moe.dispatchers import dropless
from moejax.parallel import chunking

T, K, E, D, F = 12, 3, 5, 6, 4
A = K * T
# Interpreted; memory not yet written to is NaN: rows that no expert owns.
KERNEL = pallas_grouped_matmul.Megablox((8, 128, 128), interpret=True)
FAST = PallasFusedCompute(PallasFusedSwiglu(KERNEL))
# Computes gate and up once more for the gradient.
REMAT = PallasFusedCompute(PallasFusedSwiglu(KERNEL, keep=False))
SLOW = staged.StagedCompute(
  dropless.Dropless(), experts.SwiGLU(), grouped_matmuls.ReferenceMatmul()
)
NAMES = ('out_TD', 'x_TD', 'weight_A', 'w_in', 'w_out')
PULL_TD = jnp.asarray(np.random.default_rng(9).normal(size=(T, D)))


def _inputs(dtype=jnp.float32):
  rng = np.random.default_rng(0)
  shapes = ((T, D), (A,), (E, D, 2 * F), (E, F, D))
  x, weight, *w = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)
  return x.astype(dtype), weight, *(z.astype(dtype) for z in w)


def _choose(kind):
  """expert_A of a kind of routing; E is nowhere."""
  rng = np.random.default_rng(1)
  ids = {
    'mixed, expert 2 empty': np.array([0, 1, 3, 4, E])[rng.integers(0, 5, A)],
    'one takes all': np.full(A, 3),
    'all nowhere': np.full(A, E),
  }
  return jnp.asarray(ids[kind], jnp.int32)


MIXED = _choose('mixed, expert 2 empty')


def _call(run, inputs, expert_A, token_A=None):
  """The output; K-outermost without a list of tokens."""
  x_TD, weight_A, w_in, w_out = inputs
  num_tokens = x_TD.shape[0]
  routing = contract.Routing(
    token_A=jnp.arange(len(weight_A)) % num_tokens
    if token_A is None
    else token_A,
    expert_A=expert_A,
    weight_A=weight_A,
    prob_TE=jnp.zeros((num_tokens, E)),
    per_token=K if token_A is None else None,
  )
  w_in = w_in.reshape(E, D, 2, F)
  weights = {'w_in_ED2F': w_in, 'w_out_EFD': w_out}
  return run(weights, x_TD, routing, E).out_TD


@functools.partial(jax.jit, static_argnums=0)
def _outcome(run, inputs, expert_A, token_A=None):
  """out_TD and the gradients of all inputs."""

  def loss(inputs):
    out_TD = _call(run, inputs, expert_A, token_A)
    return jnp.vdot(PULL_TD, out_TD.astype(jnp.float32)), out_TD

  (_, out_TD), grads = jax.value_and_grad(loss, has_aux=True)(inputs)
  return out_TD, *grads


def _same(got, want):
  for name, a, b in zip(NAMES, got, want, strict=True):
    # Matmuls of the interpreter are as exact as this.
    scale = np.abs(b).max()
    np.testing.assert_allclose(a, b, atol=1e-5 * scale + 1e-9, err_msg=name)


BOTH = pytest.mark.parametrize('fast', [FAST, REMAT], ids=['keep', 'remat'])


@BOTH
@pytest.mark.parametrize(
  'kind', ['mixed, expert 2 empty', 'one takes all', 'all nowhere']
)
def test_values_and_gradients_equal_the_stages(kind, fast):
  args = (_inputs(), _choose(kind))
  _same(_outcome(fast, *args), _outcome(SLOW, *args))


def test_any_list_also_a_token_twice_in_one_expert():
  token_A = jnp.asarray(np.random.default_rng(2).integers(0, T, A))
  token_A, expert_A = token_A.at[:6].set(5), MIXED.at[:6].set(1)
  args = (_inputs(), expert_A, token_A)
  _same(_outcome(FAST, *args), _outcome(SLOW, *args))


@BOTH
def test_rows_of_no_expert_reach_nobody(fast):
  """They are NaN in what the kernels give, and the first kernel's do say so."""
  assert np.sum(MIXED == E) > 3
  size_E = jnp.bincount(MIXED, length=E)
  x_AD = jnp.ones((A, D))
  y_AF = KERNEL.rows(x_AD, _inputs()[2], size_E, transpose=False)
  assert np.all(np.isnan(y_AF[-1]))
  out_TD, dx_TD, dweight_A, *dw = map(
    np.asarray, _outcome(fast, _inputs(), MIXED)
  )
  assert all(np.all(np.isfinite(z)) for z in (out_TD, dx_TD, *dw))
  assert not np.any(dweight_A[np.asarray(MIXED) == E])
  assert np.all(dweight_A[np.asarray(MIXED) < E])
  assert not any(np.any(z[2]) for z in dw)


@BOTH
def test_bfloat16_stays_near_float32(fast):
  inputs = _inputs(jnp.bfloat16)
  exact = jax.tree.map(lambda x: x.astype(jnp.float32), inputs)
  got, want = _outcome(fast, inputs, MIXED), _outcome(SLOW, exact, MIXED)
  for a, b, x in zip(got, want, (inputs[0], *inputs), strict=True):
    assert a.dtype == x.dtype
    # Rounded to 8 bits, by at most 2^-9 of itself, half a dozen times.
    error = np.abs(np.asarray(a, np.float32) - b).max()
    assert error < 2**-6 * np.abs(b).max()


def _kernels(jaxpr):
  found = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'pallas_call':
      found += 1
      continue
    for leaf in jax.tree.leaves(eqn.params):
      inside = getattr(leaf, 'jaxpr', leaf)
      found += _kernels(inside) if hasattr(inside, 'eqns') else 0
  return found


def test_a_second_pass_forward_leaves_out_the_second_matmul():
  layer = jax.checkpoint(lambda inputs: _call(FAST, inputs, MIXED))

  def loss(inputs):
    return jnp.vdot(PULL_TD, layer(inputs))

  found = _kernels(jax.make_jaxpr(jax.value_and_grad(loss))(_inputs()).jaxpr)
  # Forward 2; again 1; backward one to both sides of the activation, one of dx
  # and three of the weights.
  assert found == 2 + 1 + 5


@pytest.mark.parametrize(('fast', 'keeps'), [(FAST, True), (REMAT, False)])
def test_rows_are_kept_or_not(fast, keeps):
  _, pull = jax.vjp(lambda inputs: _call(fast, inputs, MIXED), _inputs())
  kept = {x.shape for x in jax.tree.leaves(pull)}
  assert ((A, D) in kept) == ((A, F) in kept) == keeps


def _gradients_of_halves(accumulates):
  """Gradients of two halves of the tokens, one after the other."""
  x_TD, weight_A, w_in, w_out = _inputs()
  halves = lambda x: x.reshape(K, 2, T // 2).swapaxes(0, 1).reshape(2, -1)
  rows = (x_TD.reshape(2, T // 2, D), halves(weight_A), halves(MIXED))

  def loss(w):
    weights = REMAT.prepare({'w_in_ED2F': w[0], 'w_out_EFD': w[1]})
    accumulator = REMAT.grad_accumulator(weights) if accumulates else None
    if accumulates:
      weights = jax.lax.stop_gradient(weights)

    def run(part, accumulator):
      x_TD, weight_A, expert_A = part
      routing = contract.Routing(
        token_A=jnp.arange(len(weight_A)) % len(x_TD),
        expert_A=expert_A,
        weight_A=weight_A,
        prob_TE=jnp.zeros((len(x_TD), E)),
        per_token=K,
      )
      found = REMAT(weights, x_TD, routing, E, accumulator)
      return found.out_TD, found.grad_accumulator

    split = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)
    out = chunking.scan_chunks(run, split, 2, accumulator)
    return jnp.vdot(PULL_TD, out.reshape(T, D))

  w = (w_in.reshape(E, D, 2, F), w_out)
  return jax.jit(jax.grad(loss))(w), jax.make_jaxpr(jax.grad(loss))(w)


def test_an_accumulator_adds_up_the_gradients_of_the_weights():
  got, jaxpr = _gradients_of_halves(accumulates=True)
  want, plain = _gradients_of_halves(accumulates=False)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())
    assert not np.any(a[2])
  # In the kernels, that is. What is left comes of `varying.like`, which adds
  # the gradients of a choice between one array and itself.
  sums = lambda jaxpr: str(jaxpr).count(f'f32[{E},{D},{F}] = add_any')
  assert (sums(plain), sums(jaxpr)) == (2 + 2, 2)


def test_inside_shard_map_equals_one_device():
  mesh = jax.make_mesh(
    (2,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]
  )
  # Pallas's plain interpreter refuses arrays that vary over a mesh.
  kernel = dataclasses.replace(KERNEL, interpret=pallas_tpu.InterpretParams())
  fast = PallasFusedCompute(PallasFusedSwiglu(kernel))

  def local(x_TD, weight_KT, expert_KT, w_in, w_out):
    inputs = (x_TD, weight_KT.reshape(-1), w_in, w_out)
    return _call(fast, inputs, expert_KT.reshape(-1))

  tokens, assignments = P('data'), P(None, 'data')
  sharded = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(tokens, assignments, assignments, P(), P()),
    out_specs=tokens,
  )

  def loss(inputs):
    x_TD, weight_A, *w = inputs
    out_TD = sharded(x_TD, weight_A.reshape(K, T), MIXED.reshape(K, T), *w)
    return jnp.vdot(PULL_TD, out_TD), out_TD

  (_, out_TD), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
    _inputs()
  )
  _same((out_TD, *grads), _outcome(SLOW, _inputs(), MIXED))
