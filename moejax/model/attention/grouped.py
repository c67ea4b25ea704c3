"""Multi-head and grouped-query attention: projections around a core."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from moejax.core import linear
from moejax.model import init, norm
from moejax.model.attention import dot_product
from moejax.model.attention.cache import KVCache
from moejax.model.config import ModelConfig


class Attention(nnx.Module):
  """Causal self-attention in which packed documents never see each other."""

  def __init__(
    self,
    config: ModelConfig,
    platform: str,
    key: jax.Array,
    mesh: Mesh | None = None,
  ):
    heads, groups = config.num_heads, config.kv_heads
    keys = jax.random.split(key, 4)
    shape_q = (config.width, heads, config.head_dim)
    shape_kv = (config.width, groups, config.head_dim)

    param = functools.partial(init.normal, config)

    def zeros(shape, axes):
      return nnx.Param(jnp.zeros(shape), axes=axes, decays=False)

    axes_in = ('embed', 'heads', 'head_dim')
    self.w_q_DHK = param(keys[0], shape_q, axes_in)
    self.w_k_DGK = param(keys[1], shape_kv, axes_in)
    self.w_v_DGK = param(keys[2], shape_kv, axes_in)
    self.w_o_HKD = param(
      keys[3],
      (heads, config.head_dim, config.width),
      ('heads', 'head_dim', 'embed'),
    )
    if config.qkv_bias:
      self.b_q_HK = zeros(shape_q[1:], axes_in[1:])
      self.b_k_GK = zeros(shape_kv[1:], axes_in[1:])
      self.b_v_GK = zeros(shape_kv[1:], axes_in[1:])
    if config.out_bias:
      self.b_o_D = zeros((config.width,), ('embed',))
    if config.qk_norm != 'none':
      make = norm.NORMS[config.qk_norm]
      self.norm_q = make(shape_q[1:], config.norm_eps)
      self.norm_k = make(shape_kv[1:], config.norm_eps)
    if config.sinks:
      self.sink_H = zeros((heads,), ('heads',))
    self.rope, self.platform = config.rope, platform
    self.norm_after_rope = config.qk_norm_after_rope
    self.factor = self.rope.scaling.score_factor
    if config.scales.scores:
      self.factor *= config.scales.scores * math.sqrt(config.head_dim)
    self.linear = linear.of(platform, config.quantization)
    self.core = dot_product.choose(config.attention, platform, mesh)
    self.core_of_pieces = config.context_parallel.core(
      config.attention, platform, mesh
    )

  def __call__(
    self,
    x_BLD: jax.Array,
    rotary_angles: tuple[jax.Array, jax.Array],
    segment_BL: jax.Array,
    window: jax.Array | None = None,
    *,
    pieces: bool = False,
  ) -> jax.Array:
    """Output [B, L, D]; tokens see earlier tokens of their own segment.

    Args:
      x_BLD: activations.
      rotary_angles: from `Rope.angles`.
      segment_BL: int32, number of each token's document.
      window: int32 scalar, number of tokens that a token sees, itself included;
        0 for all. None allows faster cores, which have no windows.
      pieces: whether the rows are pieces, from `parallel.context.split`.
    """
    q_BLHK, k_BLGK, v_BLGK = self._project(x_BLD, rotary_angles)
    core = self.core
    if pieces:
      core = self.core_of_pieces
    elif window is not None or hasattr(self, 'sink_H'):
      core = dot_product.with_window_and_sinks
    if core is not self.core:
      core = functools.partial(core, window=window, sink_H=self._sink())
    return self._output(core(q_BLHK, k_BLGK, v_BLGK, segment_BL))

  def step(
    self,
    x_BLD: jax.Array,
    rotary_angles: tuple[jax.Array, jax.Array],
    position_BL: jax.Array,
    cache: KVCache,
    layer: jax.Array | int,
    window: jax.Array | None = None,
  ) -> tuple[jax.Array, KVCache]:
    """Output [B, L, D] and new cache of tokens that follow those in a cache.

    Args:
      x_BLD: activations of the new tokens.
      rotary_angles: from `Rope.angles`.
      position_BL: int32, position of each new token, which is its slot.
      cache: keys and values of the tokens before.
      layer: number of the layer in the model.
      window: as in `__call__`.
    """
    q_BLHK, k_BLGK, v_BLGK = self._project(x_BLD, rotary_angles)
    cache = cache.write(layer, position_BL, k_BLGK, v_BLGK)
    k_BGSK, v_BGSK = cache.read(layer)
    mask_BLS = dot_product.visible_slots(position_BL, k_BGSK.shape[2], window)
    o_BLHK = dot_product.attend_cache(
      q_BLHK, k_BGSK, v_BGSK, mask_BLS, self._sink()
    )
    return self._output(o_BLHK), cache

  def _sink(self) -> jax.Array | None:
    return self.sink_H[...] if hasattr(self, 'sink_H') else None

  def _project(self, x_BLD, rotary_angles):
    """Queries [B, L, H, K], keys and values [B, L, G, K], rotated."""
    q, k, v = (
      self.linear(x_BLD, w[...].astype(x_BLD.dtype))
      for w in (self.w_q_DHK, self.w_k_DGK, self.w_v_DGK)
    )
    if hasattr(self, 'b_q_HK'):
      biases = (self.b_q_HK, self.b_k_GK, self.b_v_GK)
      q, k, v = (
        x + b[...].astype(x.dtype)
        for x, b in zip((q, k, v), biases, strict=True)
      )
    if hasattr(self, 'norm_q') and not self.norm_after_rope:
      q, k = self.norm_q(q), self.norm_k(k)
    q, k = (self.rope.rotate(x, rotary_angles, self.platform) for x in (q, k))
    if hasattr(self, 'norm_q') and self.norm_after_rope:
      q, k = self.norm_q(q), self.norm_k(k)
    if self.factor != 1:
      q, k = (x * math.sqrt(self.factor) for x in (q, k))
    return q, k, v

  def _output(self, o_BLHK: jax.Array) -> jax.Array:
    w_o = self.w_o_HKD[...].astype(o_BLHK.dtype)
    out_BLD = self.linear(o_BLHK, w_o, contract=2)
    if hasattr(self, 'b_o_D'):
      out_BLD += self.b_o_D[...].astype(out_BLD.dtype)
    return out_BLD
