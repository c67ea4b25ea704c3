"""One layer: attention and a feed-forward, each before a residual sum."""

from collections.abc import Mapping

import flax.struct
import jax
from flax import nnx
from jax.sharding import Mesh

from moejax.model import norm
from moejax.model.attention import grouped, heads, latent
from moejax.model.config import ModelConfig
from moejax.moe import feed_forwards
from moejax.moe.feed_forward import LayerSizes, Record, TokenInfo, Trace


@flax.struct.dataclass
class TokenContext:
  """What layers need to know of the tokens besides their activations.

  Attributes:
    segment_BL: document of a token, 0 for padding.
    position_BL: place in its document.
    index_BL: place in the global batch, for noise that no mesh changes.
    token_BL: vocabulary ids.
    rotary_angles: cos and sin of the rotary positions, each [B, L, pairs].
  """

  segment_BL: jax.Array
  position_BL: jax.Array
  index_BL: jax.Array
  token_BL: jax.Array
  rotary_angles: tuple[jax.Array, jax.Array]


@flax.struct.dataclass
class LayerSpec:
  """What differs between layers that are stacked: one layer, or all [R].

  Attributes:
    index: among the layers of its kind, from 0.
    window: how many tokens back attention sees, 0 for all; None if no layer of
      the model has a window.
  """

  index: jax.Array | int
  window: jax.Array | None


# Class of config.heads -> function (config, platform, key, mesh) -> module.
ATTENTIONS: Mapping[type, type[grouped.Attention | latent.LatentAttention]] = {
  heads.Grouped: grouped.Attention,
  heads.Latent: latent.LatentAttention,
}


class Block(nnx.Module):
  """x + attention(norm(x)), then x + feed-forward(norm(x)).

  With `norm_after`: x + norm(attention(x)), then x + norm(feed-forward(x)).
  """

  def __init__(
    self, config: ModelConfig, mesh: Mesh, key: jax.Array, *, moe: bool
  ):
    key_attention, key_ffn = jax.random.split(key)
    platform = mesh.devices.flat[0].platform
    self.norm_attention = norm.RMSNorm(config.width, config.norm_eps)
    make = ATTENTIONS[type(config.heads)]
    self.attention = make(config, platform, key_attention, mesh)
    self.norm_ffn = norm.RMSNorm(config.width, config.norm_eps)
    self.norm_after = config.norm_after
    self.scale = config.scales.residual
    sizes = layer_sizes(config)
    self.ffn = (
      config.feed_forward.make(sizes, config.moe, mesh, key_ffn)
      if moe
      else feed_forwards.Dense(sizes, config.dense_width, mesh, key_ffn)
    )

  def __call__(
    self,
    x_BLD: jax.Array,
    trace: Trace | None,
    tokens: TokenContext,
    key: jax.Array | None,
    spec: LayerSpec | None = None,
  ) -> tuple[jax.Array, Trace | None, Record]:
    """The layer's output, its trace, and its record (empty if it is dense)."""
    spec = spec or LayerSpec(0, None)
    out_BLD = self.attention(
      self._before(self.norm_attention, x_BLD),
      tokens.rotary_angles,
      tokens.segment_BL,
      spec.window,
    )
    x_BLD = x_BLD + self._behind(self.norm_attention, out_BLD)
    return self._feed_forward(x_BLD, tokens, trace, key, spec.index)

  def step(
    self,
    x_BLD: jax.Array,
    trace: Trace | None,
    tokens: TokenContext,
    spec: LayerSpec,
    cache: tuple[jax.Array, jax.Array],
  ) -> tuple[jax.Array, Trace | None, tuple[jax.Array, jax.Array]]:
    """The same with earlier tokens in a cache."""
    out_BLD, cache = self.attention.step(
      self._before(self.norm_attention, x_BLD),
      tokens.rotary_angles,
      tokens.position_BL,
      cache,
      spec.window,
    )
    x_BLD = x_BLD + self._behind(self.norm_attention, out_BLD)
    x_BLD, trace, _ = self._feed_forward(x_BLD, tokens, trace, None, spec.index)
    return x_BLD, trace, cache

  def _feed_forward(self, x_BLD, tokens, trace, key, index):
    h_BLD = self._before(self.norm_ffn, x_BLD)
    info = TokenInfo(tokens.segment_BL != 0, tokens.index_BL, tokens.token_BL)
    out_BLD, trace, record = self.ffn(h_BLD, info, trace, key, index)
    return x_BLD + self._behind(self.norm_ffn, out_BLD), trace, record

  def _before(self, rms: norm.RMSNorm, x_BLD: jax.Array) -> jax.Array:
    """The input of attention or the feed-forward."""
    return x_BLD if self.norm_after else rms(x_BLD)

  def _behind(self, rms: norm.RMSNorm, out_BLD: jax.Array) -> jax.Array:
    """The output as it is added to the residual stream."""
    out_BLD = rms(out_BLD) if self.norm_after else out_BLD
    return out_BLD if self.scale == 1 else out_BLD * self.scale


def layer_sizes(config: ModelConfig) -> LayerSizes:
  """The sizes that the feed-forwards of a model are made with."""
  return LayerSizes(
    width=config.width,
    row_length=config.max_length,
    init_std=config.init_std,
    chunks=config.token_chunks,
    remat=config.remat != 'none',
  )
