"""The mesh axes over which arrays vary inside `jax.shard_map`.

JAX tracks for each array the mesh axes over which its values may differ. Two
kinds of code must state them: a loop whose carry starts as plain zeros, and a
custom VJP some of whose arguments are replicated. Outside of `shard_map` these
functions change nothing.
"""

import jax
import jax.numpy as jnp


def like(x: jax.Array, *others: jax.Array) -> jax.Array:
  """`x`, marked as varying over all mesh axes over which `others` vary.

  The values stay the same. The gradient of an array that was replicated becomes
  the sum over devices, as it must.
  """
  # jnp.where(never, x, x) is x to the compiler, but varies over the axes of
  # `others`, because `never` is computed from an empty slice of each. JAX's own
  # functions for this change their names from version to version.
  never = [jnp.any(other.reshape(-1)[:0] != 0) for other in others]
  return jnp.where(sum(never) > 0, x, x)


def together(*xs: jax.Array) -> tuple[jax.Array, ...]:
  """All arrays, each varying over every mesh axis that any of them does."""
  return tuple(like(x, *xs) for x in xs)
