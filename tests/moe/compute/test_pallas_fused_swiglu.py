"""Kernels for accelerators; what the CPU's loop shares: test_fused_swiglu."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import fused
from helpers.fused import KERNEL, MIXED_A, PALLAS, REMAT, A, D, E, F, K, T

from moejax.parallel import chunking


def test_rows_of_no_expert_are_nan_in_what_a_kernel_gives():
  """So `test_exact_zeros_where_nothing_flows` shows that they reach nobody."""
  size_E = jnp.bincount(MIXED_A, length=E)
  x_AD = jnp.ones((A, D))
  y_AF = KERNEL.rows(x_AD, fused.inputs()[2], size_E, transpose=False)
  assert np.all(np.isnan(y_AF[-1]))


def _kernels(jaxpr):
  """The number of Pallas calls."""
  count = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'pallas_call':
      count += 1
      continue
    for leaf in jax.tree.leaves(eqn.params):
      inside = getattr(leaf, 'jaxpr', leaf)
      count += _kernels(inside) if hasattr(inside, 'eqns') else 0
  return count


def test_a_second_pass_forward_leaves_out_the_second_matmul():
  layer = jax.checkpoint(lambda inputs: fused.call(PALLAS, inputs, MIXED_A))

  def loss(inputs):
    return jnp.vdot(fused.PULL_TD, layer(inputs))

  jaxpr = jax.make_jaxpr(jax.value_and_grad(loss))(fused.inputs()).jaxpr
  # Forward 2; again 1; backward one to both sides of the activation, one of dx
  # and three of the weights.
  assert _kernels(jaxpr) == 2 + 1 + 5


@pytest.mark.parametrize(('compute', 'keeps'), [(PALLAS, True), (REMAT, False)])
def test_rows_are_kept_or_not(compute, keeps):
  run = lambda inputs: fused.call(compute, inputs, MIXED_A)
  pull = jax.eval_shape(lambda x: jax.vjp(run, x)[1], fused.inputs())
  kept = {x.shape for x in jax.tree.leaves(pull)}
  assert ((A, D) in kept) == ((A, F) in kept) == keeps


def _gradient_of_halves(accumulates):
  """The gradient by weights, as a function of them, and those weights.

  It goes over two halves of the tokens, one after the other.
  """
  x_TD, weight_A, w_in, w_out = fused.inputs()
  halves = lambda x: x.reshape(K, 2, T // 2).swapaxes(0, 1).reshape(2, -1)
  rows = (x_TD.reshape(2, T // 2, D), halves(weight_A), halves(MIXED_A))

  def loss(w):
    weights = REMAT.prepare({'w_in_ED2F': w[0], 'w_out_EFD': w[1]})
    accumulator = REMAT.grad_accumulator(weights) if accumulates else None
    if accumulates:
      weights = jax.lax.stop_gradient(weights)

    def run(half, accumulator):
      x_TD, weight_A, expert_A = half
      routing = fused.routing(weight_A, expert_A, len(x_TD))
      output = REMAT(weights, x_TD, routing, E, accumulator)
      return output.out_TD, output.grad_accumulator

    split = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)
    out = chunking.scan_chunks(run, split, 2, accumulator)
    return jnp.vdot(fused.PULL_TD, out.reshape(T, D))

  return jax.grad(loss), (w_in.reshape(E, D, 2, F), w_out)


@pytest.mark.soak
def test_an_accumulator_adds_up_the_gradients_of_the_weights():
  gradient, w = _gradient_of_halves(accumulates=True)
  plain, _ = _gradient_of_halves(accumulates=False)
  whole = fused.outcome(REMAT, fused.inputs(), MIXED_A)[3:]
  for a, b in zip(jax.jit(gradient)(w), whole, strict=True):
    a, b = np.asarray(a).reshape(b.shape), np.asarray(b)
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())
    assert not np.any(a[2])
  # In the kernels, that is. What is left comes of `varying.like`, which adds
  # the gradients of a choice between one array and itself.
  sums = lambda gradient: str(jax.make_jaxpr(gradient)(w)).count(
    f'f32[{E},{D},{F}] = add_any'
  )
  assert (sums(plain), sums(gradient)) == (2 + 2, 2)
