"""One layer: attention and a feed-forward, each before a residual sum."""

import dataclasses
from collections.abc import Mapping

import flax.struct
import jax
from flax import nnx
from jax.sharding import Mesh

from moejax.core import scopes
from moejax.model import norm
from moejax.model.attention import grouped, heads, latent
from moejax.model.attention.cache import KVCache
from moejax.model.config import ModelConfig
from moejax.moe import calibration, feed_forwards
from moejax.moe.feed_forward import LayerSizes, PreviousLayer, Record, TokenInfo
from moejax.moe.replay import Replay, Replayed
from moejax.moe.routes import RoutesRequest


@flax.struct.dataclass
class TokenContext:
  """Properties of the tokens that layers use besides the activations.

  Attributes:
    segment_BL: int32, number of the token's document in its row; 0 for padding.
    position_BL: int32, position of the token in its document.
    index_BL: int32, index of the token in the global batch. Routers draw noise
      by it, so that the noise does not depend on the mesh.
    token_BL: int32, ids in the vocabulary.
    rotary_angles: cosines and sines of the rotary positions, each
      [B, L, pairs].
    routes: static; what layers with experts record of their routes; None for
      nothing.
    replay: the experts of the tokens in all layers with experts; None for the
      routers' own choices.
    row_axes: static; the mesh axes over which rows are split. A row [L] is then
      a piece of one, from `parallel.context.split`.
  """

  segment_BL: jax.Array
  position_BL: jax.Array
  index_BL: jax.Array
  token_BL: jax.Array
  rotary_angles: tuple[jax.Array, jax.Array]
  routes: RoutesRequest | None = flax.struct.field(
    pytree_node=False, default=None
  )
  replay: Replay | None = None
  row_axes: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())


@flax.struct.dataclass
class LayerSpec:
  """Properties of one of several stacked layers, or of R of them: arrays [R].

  Attributes:
    index: number of the layer among the layers of its kind, from 0.
    window: int32, number of tokens that attention sees, the token itself
      included; 0 for all. None if no layer of the model has a window.
    replayed: the experts of the tokens in this layer, arrays [B, L, K]; None
      for the router's own choice.
    place: number of the layer among all layers of the model, from 0, for the
      cache.
  """

  index: jax.Array | int
  window: jax.Array | None
  replayed: Replayed | None = None
  place: jax.Array | int = 0


# Attention by the class of `config.heads`; made from (config, platform, key,
# mesh).
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
    self.num_experts = config.moe.num_experts
    sizes = layer_sizes(config)
    self.ffn = (
      config.feed_forward.make(sizes, config.moe, mesh, key_ffn)
      if moe
      else feed_forwards.Dense(sizes, config.dense_width, mesh, key_ffn)
    )

  def __call__(
    self,
    x_BLD: jax.Array,
    previous: PreviousLayer | None,
    tokens: TokenContext,
    key: jax.Array | None,
    spec: LayerSpec | None = None,
  ) -> tuple[jax.Array, PreviousLayer | None, Record]:
    """The layer's output, what the next layer reads of it, and its record.

    The record of a dense layer is empty.
    """
    spec = spec or LayerSpec(0, None)
    x_BLD = self._attend(x_BLD, tokens, spec)
    return self._feed_forward(x_BLD, tokens, previous, key, spec)

  def feed_forward_input(
    self, x_BLD: jax.Array, tokens: TokenContext, spec: LayerSpec
  ) -> jax.Array:
    """What the layer's feed-forward reads; arguments as of `__call__`."""
    return self._before(self.norm_ffn, self._attend(x_BLD, tokens, spec))

  @scopes.part('attention')
  def _attend(self, x_BLD, tokens, spec):
    """The activations after attention and its residual sum."""
    out_BLD = self.attention(
      self._before(self.norm_attention, x_BLD),
      tokens.rotary_angles,
      tokens.segment_BL,
      spec.window,
      pieces=bool(tokens.row_axes),
    )
    return x_BLD + self._behind(self.norm_attention, out_BLD)

  def step(
    self,
    x_BLD: jax.Array,
    previous: PreviousLayer | None,
    tokens: TokenContext,
    spec: LayerSpec,
    cache: KVCache,
  ) -> tuple[jax.Array, PreviousLayer | None, KVCache]:
    """As `__call__`, for tokens that follow those in a cache.

    Args:
      x_BLD: activations of the new tokens.
      previous: see `FeedForward`.
      tokens: the new tokens.
      spec: numbers and window of the layer.
      cache: keys and values of all layers, which the new tokens are added to.

    Returns:
      The output, what the next layer reads, and the new cache.
    """
    x_BLD, cache = self._attend_step(x_BLD, tokens, spec, cache)
    x_BLD, previous, _ = self._feed_forward(x_BLD, tokens, previous, None, spec)
    return x_BLD, previous, cache

  @scopes.part('attention')
  def _attend_step(self, x_BLD, tokens, spec, cache):
    out_BLD, cache = self.attention.step(
      self._before(self.norm_attention, x_BLD),
      tokens.rotary_angles,
      tokens.position_BL,
      cache,
      spec.place,
      spec.window,
    )
    return x_BLD + self._behind(self.norm_attention, out_BLD), cache

  @scopes.part('feed_forward')
  def _feed_forward(self, x_BLD, tokens, previous, key, spec):
    h_BLD = self._before(self.norm_ffn, x_BLD)
    info = TokenInfo(
      tokens.segment_BL != 0,
      tokens.index_BL,
      tokens.token_BL,
      tokens.routes,
      spec.replayed,
      tokens.row_axes,
    )
    out_BLD, previous, record = self.ffn(h_BLD, info, previous, key, spec.index)
    if tokens.routes is not None and tokens.routes.summed:
      record = self._calibrated(record, x_BLD, info)
    return x_BLD + self._behind(self.norm_ffn, out_BLD), previous, record

  def _calibrated(
    self, record: Record, x_BLD: jax.Array, info: TokenInfo
  ) -> Record:
    """The record with calibration sums in place of the routes, if it has any.

    With `norm_after`, the routed output counts as normalised by itself.
    """
    routes = record.routes
    if routes is None or routes.routed_BLD is None:
      return record
    added_BLD = self._behind(self.norm_ffn, routes.routed_BLD)
    sums = calibration.of(
      routes, x_BLD, added_BLD, info.valid_BL, self.num_experts
    )
    return dataclasses.replace(record, routes=None, calibration=sums)

  def _before(self, rms: norm.RMSNorm, x_BLD: jax.Array) -> jax.Array:
    """The input of attention or the feed-forward, normalised unless after."""
    return x_BLD if self.norm_after else rms(x_BLD)

  def _behind(self, rms: norm.RMSNorm, out_BLD: jax.Array) -> jax.Array:
    """The output of either, as it is added to the residual stream."""
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
    quantization=config.quantization,
  )
