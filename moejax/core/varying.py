"""Arrays inside `jax.shard_map`: over which mesh axes they vary.

JAX wants this stated in two places: for the carry of a loop that starts as
plain zeros, and for a custom VJP some of whose arguments are replicated.
Outside of `shard_map` these functions change nothing.
"""

import jax
import jax.numpy as jnp


def like(x: jax.Array, *others: jax.Array) -> jax.Array:
  """`x`, marked as varying over every mesh axis that one of `others` varies on.

  The values stay the same. The gradient of a replicated array becomes the sum
  over devices, as it must.
  """
  # jnp.where(never, x, x) is x to the compiler, but varies over the axes of
  # `others`, from whose elements (none of them) `never` is computed. JAX's own
  # functions for this change their names from version to version.
  never = [jnp.any(other.reshape(-1)[:0] != 0) for other in others]
  return jnp.where(sum(never) > 0, x, x)


def together(*xs: jax.Array) -> tuple[jax.Array, ...]:
  """All arrays, each varying over every mesh axis that any of them does."""
  return tuple(like(x, *xs) for x in xs)
