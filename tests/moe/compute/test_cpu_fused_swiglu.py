"""The loop for CPU; what it shares with the kernels: test_fused_swiglu."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers import fused


def test_under_scan_and_checkpoint():
  x_TD, weight_A, *w = fused.inputs()
  w_stacked = tuple(jnp.stack([z, z[::-1]]) / 2 for z in w)

  def loss(compute, x_TD, w_stacked):
    @jax.checkpoint
    def layer(x_TD, w):
      inputs = (x_TD, weight_A, *w)
      return x_TD + fused.call(compute, inputs, fused.MIXED_A), None

    return jnp.sum(jnp.sin(jax.lax.scan(layer, x_TD, w_stacked)[0]))

  grad = jax.jit(jax.grad(loss, argnums=(1, 2)), static_argnums=0)
  got = jax.tree.leaves(grad(fused.CPU, x_TD, w_stacked))
  want = jax.tree.leaves(grad(fused.STAGES, x_TD, w_stacked))
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, atol=3e-4 * np.abs(b).max())
