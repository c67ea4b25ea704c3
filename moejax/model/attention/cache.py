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

  The loop over layers carries the whole cache, so that `write` changes it in
  place. The slots of a head lie one after the other, as the products with
  queries and probabilities read them.

  Attributes:
    k_NBGSK, v_NBGSK: N layers, S slots. Each kind of heads decides what they
      hold; with latent heads the first holds all, the second nothing.
  """

  k_NBGSK: jax.Array
  v_NBGSK: jax.Array

  def write(
    self,
    layer: jax.Array | int,
    position_BL: jax.Array,
    k_BLGK: jax.Array,
    v_BLGK: jax.Array | None = None,
  ) -> 'KVCache':
    """The cache with the keys and values of new tokens in one layer.

    Args:
      layer: number of the layer in the model.
      position_BL: int32, position of each new token.
      k_BLGK: keys.
      v_BLGK: values; None for heads that keep none.
    """
    row_B1 = jnp.arange(position_BL.shape[0])[:, None]
    k_NBGSK = self.k_NBGSK.at[layer, row_B1, :, position_BL].set(k_BLGK)
    v_NBGSK = self.v_NBGSK
    if v_BLGK is not None:
      v_NBGSK = v_NBGSK.at[layer, row_B1, :, position_BL].set(v_BLGK)
    return KVCache(k_NBGSK, v_NBGSK)

  def read(self, layer: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """k_BGSK and v_BGSK of one layer."""
    k_BGSK, v_BGSK = (
      jax.lax.dynamic_index_in_dim(x, layer, keepdims=False)
      for x in (self.k_NBGSK, self.v_NBGSK)
    )
    return k_BGSK, v_BGSK


def empty(config: ModelConfig, rows: int, slots: int) -> KVCache:
  """A cache for `rows` sequences of up to `slots` tokens."""
  dtype = jnp.dtype(config.dtype)
  k_NBGSK, v_NBGSK = (
    jnp.zeros((config.num_layers, rows, heads, slots, width), dtype)
    for heads, width in config.heads.slots(config)
  )
  return KVCache(k_NBGSK, v_NBGSK)
