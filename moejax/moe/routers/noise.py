"""Random numbers of tokens, the same on any mesh and in any micro-batch.

They are drawn from (key, salt, index of the token in the global batch) alone.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from moejax.moe import contract


def uniform(inputs: contract.RouterInput, num: int, salt: int = 0) -> jax.Array:
  """Uniform noise [T, num] in [0, 1), the same on any mesh.

  Args:
    inputs: the router's, with its key and the tokens' indices.
    num: numbers for each token.
    salt: another number, other noise.
  """
  return draw(jax.random.uniform, inputs.noise_key, inputs.index_T, num, salt)


def normal(inputs: contract.RouterInput, num: int, salt: int = 0) -> jax.Array:
  """Standard normal noise [T, num], the same on any mesh; see `uniform`."""
  return draw(jax.random.normal, inputs.noise_key, inputs.index_T, num, salt)


def gumbel(inputs: contract.RouterInput, num: int, salt: int = 0) -> jax.Array:
  """Gumbel noise [T, num], the same on any mesh; see `uniform`."""
  return draw(jax.random.gumbel, inputs.noise_key, inputs.index_T, num, salt)


def draw(
  kind: Callable[..., jax.Array],
  key: jax.Array,
  index_T: jax.Array,
  num: int,
  salt: int = 0,
) -> jax.Array:
  """[T, num] of a kind of noise, such as `jax.random.uniform`."""
  if salt:
    key = jax.random.fold_in(key, salt)
  one = lambda i: kind(jax.random.fold_in(key, i), (num,), jnp.float32)
  return jax.vmap(one)(index_T)
