"""One layer of a vision transformer: attention and a feed-forward."""

import jax
from flax import nnx
from jax.sharding import Mesh

from moejax.core import linear
from moejax.moe.feed_forward import PreviousLayer, TokenInfo
from moejax.vision import layers
from moejax.vision.config import VisionConfig
from moejax.vision.feed_forward import Result


class Attention(nnx.Module):
  """Self-attention in which every token of an image sees all of them."""

  def __init__(self, config: VisionConfig, platform: str, key: jax.Array):
    heads = config.num_heads, config.head_dim
    keys, std = jax.random.split(key, 4), config.init_std
    shape, axes = (config.width, *heads), ('embed', 'heads', 'head_dim')
    self.w_q_DHK = layers.matrix(keys[0], shape, axes, std)
    self.w_k_DHK = layers.matrix(keys[1], shape, axes, std)
    self.w_v_DHK = layers.matrix(keys[2], shape, axes, std)
    self.b_q_HK = layers.zeros(shape[1:], axes[1:])
    self.b_k_HK = layers.zeros(shape[1:], axes[1:])
    self.b_v_HK = layers.zeros(shape[1:], axes[1:])
    self.w_o_HKD = layers.matrix(
      keys[3], (*heads, config.width), ('heads', 'head_dim', 'embed'), std
    )
    self.b_o_D = layers.zeros((config.width,), ('embed',))
    self.linear = linear.of(platform)

  def __call__(self, x_BND: jax.Array) -> jax.Array:
    """Output [B, N, D] in the type of `x_BND`."""
    dtype = x_BND.dtype
    q, k, v = (
      self.linear(x_BND, w[...].astype(dtype)) + b[...].astype(dtype)
      for w, b in (
        (self.w_q_DHK, self.b_q_HK),
        (self.w_k_DHK, self.b_k_HK),
        (self.w_v_DHK, self.b_v_HK),
      )
    )
    o_BNHK = layers.attend(q, k, v)
    w_o = self.w_o_HKD[...].astype(dtype)
    return self.linear(o_BNHK, w_o, contract=2) + self.b_o_D[...].astype(dtype)


class Block(nnx.Module):
  """x + attention(norm(x)), then x + feed-forward(norm(x))."""

  def __init__(self, config: VisionConfig, mesh: Mesh, key: jax.Array):
    keys = jax.random.split(key)
    platform = mesh.devices.flat[0].platform
    self.kind = config.feed_forward
    self.norm_attention = layers.LayerNorm(config.width, config.norm_eps)
    self.attention = Attention(config, platform, keys[0])
    self.norm_ffn = layers.LayerNorm(config.width, config.norm_eps)
    self.ffn = self.kind.module(config.sizes, mesh, keys[1])

  def __call__(
    self,
    x_BND: jax.Array,
    tokens: TokenInfo,
    previous: PreviousLayer | None,
    key: jax.Array | None,
    layer: jax.Array | int,
  ) -> Result:
    """Output [B, N, D], what the next layer reads, and the record.

    Args:
      x_BND: the input; the output has its type.
      tokens: the tokens, an image for a row.
      previous: of the layer before; None without experts.
      key: random key of this layer and step; None in evaluation.
      layer: number of the layer, from 0.
    """
    x_BND = x_BND + self.attention(self.norm_attention(x_BND))
    out_BND, previous, record = self.kind.apply(
      self.ffn, self.norm_ffn(x_BND), tokens, previous, key, layer
    )
    return x_BND + out_BND, previous, record
