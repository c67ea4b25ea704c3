"""The index of the largest of many numbers."""

import jax
import jax.numpy as jnp


def last_axis(x: jax.Array) -> jax.Array:
  """`argmax` over the last axis [..., 1], int32: the first of equal ones.

  On CPUs XLA computes a maximum and a minimum on all cores with vectors, but
  not its own `argmax`, which takes ten times as long for logits of 16 rows of
  100,000. Without an order, as with NaN, the index is the last one.
  """
  size = x.shape[-1]
  index = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
  is_best = x == jnp.max(x, axis=-1, keepdims=True)
  first = jnp.where(is_best, index, size - 1)
  return jnp.min(first, axis=-1, keepdims=True)
