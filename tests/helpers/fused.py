"""A small problem for fused experts, and what they make of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from moejax.moe import contract, experts
from moejax.moe.compute import (
  blocks,
  cpu_fused_swiglu,
  grouped_matmuls,
  pallas_grouped_matmul,
  staged,
)
from moejax.moe.compute.pallas_fused_swiglu import (
  PallasFusedCompute,
  PallasFusedSwiglu,
)
from moejax.moe.dispatchers import dropless

T, K, E, D, F = 12, 3, 5, 6, 4
A = K * T
TOKEN_A = jnp.arange(A) % T
# Interpreted; memory not yet written to is NaN: rows that no expert owns.
KERNEL = pallas_grouped_matmul.Megablox((8, 128, 128), interpret=True)
PALLAS = PallasFusedCompute(PallasFusedSwiglu(KERNEL))
# Computes gate and up once more for the gradient.
REMAT = PallasFusedCompute(PallasFusedSwiglu(KERNEL, keep=False))
CPU = cpu_fused_swiglu.CpuFusedCompute(
  cpu_fused_swiglu.CpuFusedSwiglu(blocks.Blocks(block=2, ladder=(4, 2, 1)))
)
STAGES = staged.StagedCompute(
  dropless.Dropless(), experts.SwiGLU(), grouped_matmuls.ReferenceMatmul()
)
NAMES = ('out_TD', 'x_TD', 'weight_A', 'w_in', 'w_out')
PULL_TD = jnp.asarray(np.random.default_rng(9).normal(size=(T, D)))


def _expert_lists():
  rng = np.random.default_rng(1)
  ids = {
    'mixed, expert 2 empty': np.array([0, 1, 3, 4, E])[rng.integers(0, 5, A)],
    'one takes all': np.full(A, 3),
    'all nowhere': np.full(A, E),
  }
  return {name: jnp.asarray(x, jnp.int32) for name, x in ids.items()}


# expert_A by kind of routing; E is nowhere.
EXPERT_A = _expert_lists()
MIXED_A = EXPERT_A['mixed, expert 2 empty']


def inputs(dtype=jnp.float32):
  """x_TD, weight_A, w_in [E, D, 2 F] and w_out [E, F, D]."""
  rng = np.random.default_rng(0)
  shapes = ((T, D), (A,), (E, D, 2 * F), (E, F, D))
  x, weight, *w = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)
  return x.astype(dtype), weight, *(z.astype(dtype) for z in w)


def routing(weight_A, expert_A, num_tokens, token_A=None):
  """A list of assignments; K-outermost without a list of tokens."""
  outermost = token_A is None
  return contract.Routing(
    token_A=jnp.arange(len(weight_A)) % num_tokens if outermost else token_A,
    expert_A=expert_A,
    weight_A=weight_A,
    prob_TE=jnp.zeros((num_tokens, E)),
    per_token=K if outermost else None,
  )


def call(compute, inputs, expert_A, token_A=None):
  """out_TD."""
  x_TD, weight_A, w_in, w_out = inputs
  weights = {'w_in_ED2F': w_in.reshape(E, D, 2, F), 'w_out_EFD': w_out}
  listed = routing(weight_A, expert_A, x_TD.shape[0], token_A)
  return compute(weights, x_TD, listed, E).out_TD


@functools.partial(jax.jit, static_argnums=0)
def outcome(compute, inputs, expert_A, token_A=None):
  """out_TD and the gradients of all inputs."""

  def loss(inputs):
    out_TD = call(compute, inputs, expert_A, token_A)
    return jnp.vdot(PULL_TD, out_TD.astype(jnp.float32)), out_TD

  (_, out_TD), grads = jax.value_and_grad(loss, has_aux=True)(inputs)
  return out_TD, *grads


def assert_same(got, want):
  """Raises AssertionError where two outcomes differ."""
  for name, a, b in zip(NAMES, got, want, strict=True):
    # Matmuls of the interpreter are as exact as this.
    scale = np.abs(b).max()
    np.testing.assert_allclose(a, b, atol=1e-5 * scale + 1e-9, err_msg=name)
