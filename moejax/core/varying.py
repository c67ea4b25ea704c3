"""Arrays inside `jax.shard_map`: over which mesh axes they vary.

A loop whose carry starts as plain zeros, and a custom VJP some of whose
arguments are replicated, both need that said aloud. Outside of `shard_map`
these functions change nothing.
"""

import jax
import jax.numpy as jnp


def match(x: jax.Array, *like: jax.Array) -> jax.Array:
  """`x`, said to vary over every mesh axis that one of `like` varies over.

  The values stay. The gradient to a replicated array becomes the sum over
  devices, as it must.
  """
  # A choice between x and x, by an array of no elements, is x to the compiler
  # but has the axes of all. JAX's own names for this change with its versions.
  never = [jnp.any(leaf.reshape(-1)[:0] != 0) for leaf in like]
  return jnp.where(sum(never) > 0, x, x)


def together(*xs: jax.Array) -> tuple[jax.Array, ...]:
  """All arrays, each varying over every mesh axis that any of them does."""
  return tuple(match(x, *xs) for x in xs)
