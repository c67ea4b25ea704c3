"""RMSNorm."""

import jax
import jax.numpy as jnp
from flax import nnx


class RMSNorm(nnx.Module):
  """RMSNorm: x / sqrt(mean(x^2) + eps) * scale, in float32.

  Source: arXiv 1910.07467.
  """

  def __init__(self, width: int, eps: float, axis: str = 'embed'):
    self.eps = eps
    self.scale_D = nnx.Param(jnp.ones((width,)), axes=(axis,), decays=False)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises the last dimension; the result has the type of `x`."""
    return _normalise(x, self.scale_D[...], self.eps, -1)


class HeadNorm(RMSNorm):
  """Normalises each head by itself; all share the scales [K] (Qwen3)."""

  def __init__(self, shape: tuple[int, int], eps: float):
    super().__init__(shape[1], eps, 'head_dim')


class WidthNorm(nnx.Module):
  """Normalises all heads together, with scales [H, K] (OLMoE)."""

  def __init__(self, shape: tuple[int, int], eps: float):
    self.eps = eps
    self.scale_HK = nnx.Param(
      jnp.ones(shape), axes=('heads', 'head_dim'), decays=False
    )

  def __call__(self, x_BLHK: jax.Array) -> jax.Array:
    """Normalises the last two dimensions; the result has the type of `x`."""
    return _normalise(x_BLHK, self.scale_HK[...], self.eps, (-2, -1))


def _normalise(x, scale, eps, axes):
  x32 = x.astype(jnp.float32)
  mean = jnp.mean(jnp.square(x32), axis=axes, keepdims=True)
  return (x32 * jax.lax.rsqrt(mean + eps) * scale).astype(x.dtype)


# Norms of queries and keys by name in a config; made from ((heads, head_dim),
# eps).
NORMS = {'head': HeadNorm, 'width': WidthNorm}
