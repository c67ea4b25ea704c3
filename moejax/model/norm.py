"""RMSNorm."""

import jax
import jax.numpy as jnp
from flax import nnx


class RMSNorm(nnx.Module):
  """x / sqrt(mean(x^2) + eps) * scale, in float32 (arXiv 1910.07467)."""

  def __init__(self, width: int, eps: float):
    self.eps = eps
    self.scale_D = nnx.Param(jnp.ones((width,)), axes=('embed',))

  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises the last dimension; the result has the type of `x`."""
    x32 = x.astype(jnp.float32)
    mean = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
    y = x32 * jax.lax.rsqrt(mean + self.eps) * self.scale_D[...]
    return y.astype(x.dtype)
