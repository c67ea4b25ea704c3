"""Rotary positions (arXiv 2104.09864), features paired half with half."""

import jax
import jax.numpy as jnp


def angles(
  position_BL: jax.Array, head_dim: int, base: float
) -> tuple[jax.Array, jax.Array]:
  """Cos and sin of position * base^(-2i / head_dim), each [B, L, K / 2]."""
  exponent = jnp.arange(head_dim // 2, dtype=jnp.float32) * 2 / head_dim
  angle_BLk = position_BL[..., None].astype(jnp.float32) * base**-exponent
  return jnp.cos(angle_BLk), jnp.sin(angle_BLk)


def rotate(x_BLHK: jax.Array, turn: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Turns each pair (x_i, x_{i + K/2}) by its angle."""
  cos, sin = (t[:, :, None, :] for t in turn)
  a, b = jnp.split(x_BLHK.astype(jnp.float32), 2, axis=-1)
  y = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return y.astype(x_BLHK.dtype)
