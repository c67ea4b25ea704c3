"""Keys and values of the tokens so far, for decoding."""

import flax.struct
import jax
import jax.numpy as jnp

from moejax.model.config import ModelConfig


@flax.struct.dataclass
class KVCache:
  """Keys and values by layer; the slot of a token is its position.

  A query sees the slots up to its own position. Slots beyond it may hold
  anything (of padding, say): the token with that position overwrites them
  before a query sees them.

  Attributes:
    k_NBSGK, v_NBSGK: N layers, S slots. Each kind of heads decides what they
      hold; with latent heads the first holds all, the second nothing.
  """

  k_NBSGK: jax.Array
  v_NBSGK: jax.Array


def empty(config: ModelConfig, rows: int, slots: int) -> KVCache:
  """A cache for `rows` sequences of up to `slots` tokens."""
  front, dtype = (config.num_layers, rows, slots), jnp.dtype(config.dtype)
  return KVCache(
    *(jnp.zeros(front + own, dtype) for own in config.heads.slots(config))
  )
