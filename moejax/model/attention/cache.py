"""Keys and values of the tokens so far, for decoding."""

import flax.struct
import jax
import jax.numpy as jnp

from moejax.model.config import ModelConfig


@flax.struct.dataclass
class Cache:
  """Keys and values by layer; the slot of a token is its position.

  A query sees the slots up to its own position. Slots beyond it may hold
  leftovers (of padding, say): the token that gets that position overwrites them
  before anyone looks.

  Attributes:
    k_NBSGK, v_NBSGK: N layers, S slots. What they hold is the attention's
      affair: with latent heads the first has all, the second nothing.
  """

  k_NBSGK: jax.Array
  v_NBSGK: jax.Array


def empty(config: ModelConfig, rows: int, slots: int) -> Cache:
  """A cache for `rows` sequences of up to `slots` tokens."""
  front, dtype = (config.num_layers, rows, slots), jnp.dtype(config.dtype)
  return Cache(
    *(jnp.zeros(front + own, dtype) for own in config.heads.slots(config))
  )
