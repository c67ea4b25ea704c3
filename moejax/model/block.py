"""One layer: attention and a feed-forward, each before a residual sum."""

import flax.struct
import jax
from flax import nnx
from jax.sharding import Mesh

from moejax.model import attention, ffn, norm
from moejax.model.config import ModelConfig
from moejax.moe import layer


@flax.struct.dataclass
class Tokens:
  """What every layer knows of the tokens besides their activations.

  Attributes:
    segment_BL: document of a token, 0 for padding.
    position_BL: place in its document.
    index_BL: place in the global batch, for noise that no mesh changes.
    turn: cos and sin of the rotary positions.
  """

  segment_BL: jax.Array
  position_BL: jax.Array
  index_BL: jax.Array
  turn: tuple[jax.Array, jax.Array]


class Block(nnx.Module):
  """x + attention(norm(x)), then x + feed-forward(norm(x))."""

  def __init__(
    self, config: ModelConfig, mesh: Mesh, key: jax.Array, *, moe: bool
  ):
    key_attention, key_ffn = jax.random.split(key)
    platform = mesh.devices.flat[0].platform
    self.norm_attention = norm.RMSNorm(config.width, config.norm_eps)
    self.attention = attention.Attention(config, platform, key_attention)
    self.norm_ffn = norm.RMSNorm(config.width, config.norm_eps)
    if moe:
      self.ffn = layer.MoE(
        config.moe, config.width, config.init_std, mesh, key_ffn
      )
    else:
      self.ffn = ffn.Dense(config, key_ffn)

  def __call__(
    self, x_BLD: jax.Array, tokens: Tokens, key: jax.Array | None
  ) -> tuple[jax.Array, layer.Record]:
    """Returns the layer's output and its record (empty if it is dense)."""
    x_BLD = x_BLD + self.attention(
      self.norm_attention(x_BLD), tokens.turn, tokens.segment_BL
    )
    return self._feed_forward(x_BLD, tokens, key)

  def step(
    self,
    x_BLD: jax.Array,
    tokens: Tokens,
    cache: tuple[jax.Array, jax.Array],
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The same with earlier tokens in a cache."""
    out_BLD, cache = self.attention.step(
      self.norm_attention(x_BLD), tokens.turn, tokens.position_BL, cache
    )
    x_BLD, _ = self._feed_forward(x_BLD + out_BLD, tokens, None)
    return x_BLD, cache

  def _feed_forward(self, x_BLD, tokens, key):
    h_BLD = self.norm_ffn(x_BLD)
    if isinstance(self.ffn, layer.MoE):
      valid_BL = tokens.segment_BL != 0
      out_BLD, record = self.ffn(h_BLD, valid_BL, tokens.index_BL, key)
      return x_BLD + out_BLD, record
    return x_BLD + self.ffn(h_BLD), layer.Record({}, {})
