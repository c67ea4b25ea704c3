"""STARTS: initial values of centroids, as functions of (key, width, num, std).

Each returns w_DE in float32; `std` is that of the model's matrices.
"""

import math

import jax
import jax.numpy as jnp


def model(key: jax.Array, width: int, num: int, std: float) -> jax.Array:
  """Normal, with the standard deviation of all matrices (DeepSeek)."""
  return std * jax.random.normal(key, (width, num), jnp.float32)


def zeros(key: jax.Array, width: int, num: int, std: float) -> jax.Array:
  """Zeros: all experts start equally likely (Shazeer 2017, Grok-1)."""
  del key, std
  return jnp.zeros((width, num), jnp.float32)


def switch(key: jax.Array, width: int, num: int, std: float) -> jax.Array:
  """Truncated normal of deviation sqrt(0.1 / D).

  Switch Transformer (arXiv 2101.03961, section 2.4). The deviation is that
  after truncation, as in the released code.
  """
  del std
  draw = jax.nn.initializers.variance_scaling(0.1, 'fan_in', 'truncated_normal')
  return draw(key, (width, num), jnp.float32)


def lecun(key: jax.Array, width: int, num: int, std: float) -> jax.Array:
  """Truncated normal of deviation sqrt(1 / D) (V-MoE)."""
  del std
  return jax.nn.initializers.lecun_normal()(key, (width, num), jnp.float32)


def orthogonal(key: jax.Array, width: int, num: int, std: float) -> jax.Array:
  """Orthogonal, of norm 0.1 (BASE layers, StableMoE)."""
  del std
  draw = jax.nn.initializers.orthogonal(0.1, column_axis=0)
  return draw(key, (width, num), jnp.float32)


def equal_norm(key: jax.Array, width: int, num: int, std: float) -> jax.Array:
  """Normal, then all rows of one norm at the same deviation (sigma-MoE)."""
  w_DE = jax.random.normal(key, (width, num), jnp.float32)
  return std * math.sqrt(width) * w_DE / jnp.linalg.norm(w_DE, axis=0)


def uniform(key: jax.Array, width: int, num: int, std: float) -> jax.Array:
  """Uniform in +-0.01: gamma / 100 of DSelect-k, with gamma 1."""
  del std
  return jax.random.uniform(key, (width, num), jnp.float32, -0.01, 0.01)


def pytorch(key: jax.Array, width: int, num: int, std: float) -> jax.Array:
  """Uniform in +-1 / sqrt(D): PyTorch's linear layer (EvoMoE)."""
  del std
  edge = 1 / math.sqrt(width)
  return jax.random.uniform(key, (width, num), jnp.float32, -edge, edge)


STARTS = {
  'equal_norm': equal_norm,
  'lecun': lecun,
  'model': model,
  'orthogonal': orthogonal,
  'pytorch': pytorch,
  'switch': switch,
  'uniform': uniform,
  'zeros': zeros,
}
