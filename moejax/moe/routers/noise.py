"""Random numbers for tokens, the same on any mesh and in any micro-batch.

The numbers of a token depend on (key, salt, index of the token in the global
batch) and on nothing else.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from moejax.moe import contract


def uniform(inputs: contract.RouterInput, num: int, salt: int = 0) -> jax.Array:
  """Uniform noise [T, num] in [0, 1), the same on any mesh.

  Args:
    inputs: the router's, with its key and the tokens' indices.
    num: how many numbers each token gets.
    salt: another salt gives independent noise from the same key.
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
  """Noise [T, num] of any distribution; see `uniform`.

  Args:
    kind: (key, shape, dtype) -> numbers, such as `jax.random.uniform`.
    key: random key of the layer and step.
    index_T: int32 position of the token in the global batch.
    num: how many numbers each token gets.
    salt: another salt gives independent noise from the same key.
  """
  if salt:
    key = jax.random.fold_in(key, salt)
  one = lambda i: kind(jax.random.fold_in(key, i), (num,), jnp.float32)
  return jax.vmap(one)(index_T)
