"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

  c_R    = norm(x W_dkv)                    one latent vector per token   (9)
  k_Hn   = c_R W_uk      v_HV = c_R W_uv    keys and values by head   (10), (11)
  k_r    = rope(x W_kr)                     one key that all heads share    (15)
  q_Hn   = norm(x W_dq) W_uq                or x W_q without a rank  (12), (13)
  q_Hr   = rope(norm(x W_dq) W_qr)                                          (14)
  score  = ([q_n, q_r] . [k_n, k_r]) / sqrt(n + r)                   (16), (17)

A cache holds c_R and k_r alone. In decoding W_uk is applied to the query and
W_uv after the sum over tokens (section 2.1.2), because q_n . (c W_uk) =
(q_n W_uk^T) . c. So no head's keys or values are computed for the tokens in the
cache.

The norms of the latent vectors are in the authors' code and in section 3.1.2.
W_dkv and W_kr are one matrix here, as are W_uk and W_uv, W_uq and W_qr.
"""

import functools
from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from moejax.core import linear
from moejax.model import init, norm
from moejax.model.attention import dot_product, narrow_values
from moejax.model.attention.cache import KVCache
from moejax.model.attention.heads import Latent
from moejax.model.config import ModelConfig


class LatentAttention(nnx.Module):
  """Attention whose keys and values are made from one vector per token."""

  def __init__(
    self,
    config: ModelConfig,
    platform: str,
    key: jax.Array,
    mesh: Mesh | None = None,
  ):
    # By the table `block.ATTENTIONS`.
    heads, num_heads = cast(Latent, config.heads), config.num_heads
    self.plain_dim, self.rotary_dim = config.head_dim, heads.rope_dim
    self.rank, self.rope = heads.kv_rank, config.rope
    self.platform = platform
    keys = jax.random.split(key, 5)
    width_q = self.plain_dim + self.rotary_dim
    eps = heads.norm_eps or config.norm_eps

    param = functools.partial(init.normal, config)
    by_head = ('heads', 'head_dim')
    shape: tuple[int, ...]
    if heads.q_rank:
      shape = (config.width, heads.q_rank)
      self.w_dq_DQ = param(keys[0], shape, ('embed', 'unsharded'))
      self.norm_q = norm.RMSNorm(heads.q_rank, eps, 'unsharded')
      shape = (heads.q_rank, num_heads, width_q)
      self.w_uq_QHK = param(keys[1], shape, ('rank', *by_head))
    else:
      shape = (config.width, num_heads, width_q)
      self.w_q_DHK = param(keys[1], shape, ('embed', *by_head))
    shape = (config.width, heads.kv_rank + heads.rope_dim)
    self.w_dkv_DR = param(keys[2], shape, ('embed', 'unsharded'))
    self.norm_kv = norm.RMSNorm(heads.kv_rank, eps, 'unsharded')
    shape = (heads.kv_rank, num_heads, self.plain_dim + heads.value_dim)
    self.w_ukv_RHK = param(keys[3], shape, ('rank', *by_head))
    shape = (num_heads, heads.value_dim, config.width)
    self.w_o_HVD = param(keys[4], shape, (*by_head, 'embed'))
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
    """Output [B, L, D]; as in `grouped.Attention`, but without windows."""
    del window
    q_BLHK = self._queries(x_BLD, rotary_angles)
    c_BLR, k_BL1r = self._latent(x_BLD, rotary_angles)
    k_BLHK, v_BLHV = self._keys_and_values(c_BLR, k_BL1r)
    core = self.core_of_pieces if pieces else self.core
    o_BLHV = narrow_values.attend(core, q_BLHK, k_BLHK, v_BLHV, segment_BL)
    return self._output(o_BLHV)

  def step(
    self,
    x_BLD: jax.Array,
    rotary_angles: tuple[jax.Array, jax.Array],
    position_BL: jax.Array,
    cache: KVCache,
    layer: jax.Array | int,
    window: jax.Array | None = None,
  ) -> tuple[jax.Array, KVCache]:
    """Output and new cache; as in `grouped.Attention`, without windows.

    The cache has keys [N, B, 1, S, R + r] alone; see `heads.Latent.slots`.
    """
    del window
    q_BLHn, q_BLHr = jnp.split(
      self._queries(x_BLD, rotary_angles), [self.plain_dim], axis=-1
    )
    c_BLR, k_BL1r = self._latent(x_BLD, rotary_angles)
    new_BL1K = jnp.concatenate([c_BLR[:, :, None], k_BL1r], axis=-1)
    cache = cache.write(layer, position_BL, new_BL1K)
    kept_B1SK, _ = cache.read(layer)
    up_RHK = self._up(x_BLD.dtype)
    up_RHn, up_RHV = jnp.split(up_RHK, [self.plain_dim], axis=-1)
    q_BLHR = jnp.einsum('BLHn,RHn->BLHR', q_BLHn, up_RHn)
    # The core divides by the root of the latent width, not of the heads' width.
    latent, width = (
      self.rank + self.rotary_dim,
      self.plain_dim + self.rotary_dim,
    )
    q_BLHK = jnp.concatenate([q_BLHR, q_BLHr], axis=-1)
    q_BLHK = q_BLHK * (latent / width) ** 0.5
    mask_BLS = dot_product.visible_slots(position_BL, kept_B1SK.shape[2])
    o_BLHR = dot_product.attend_cache(
      q_BLHK, kept_B1SK, kept_B1SK[..., : self.rank], mask_BLS
    )
    o_BLHV = jnp.einsum('BLHR,RHV->BLHV', o_BLHR, up_RHV)
    return self._output(o_BLHV), cache

  def _queries(self, x_BLD, rotary_angles):
    """Queries [B, L, H, n + r]; the last r features have positions."""
    dtype = x_BLD.dtype
    if hasattr(self, 'w_dq_DQ'):
      w_DQ = self.w_dq_DQ[...].astype(dtype)
      c_BLQ = self.norm_q(self.linear(x_BLD, w_DQ))
      w_QHK = self.w_uq_QHK[...].astype(dtype)
      q_BLHK = self.linear(c_BLQ, w_QHK)
    else:
      w_DHK = self.w_q_DHK[...].astype(dtype)
      q_BLHK = self.linear(x_BLD, w_DHK)
    factor = self.rope.scaling.score_factor
    q_BLHK = q_BLHK if factor == 1 else q_BLHK * factor
    return self.rope.rotate(
      q_BLHK, rotary_angles, self.platform, self.plain_dim
    )

  def _latent(self, x_BLD, rotary_angles):
    """c_BLR, normalised, and the key that all heads share, k_BL1r."""
    both = self.linear(x_BLD, self.w_dkv_DR[...].astype(x_BLD.dtype))
    c_BLR, k_BLr = jnp.split(both, [self.rank], axis=-1)
    return self.norm_kv(c_BLR), self.rope.rotate(
      k_BLr[:, :, None], rotary_angles, self.platform
    )

  def _keys_and_values(self, c_BLR, k_BL1r):
    """Keys [B, L, H, n + r] and values [B, L, H, V] of all heads.

    A TPU keeps features in lanes of 128: cutting a head, or putting one
    together, is a copy of all heads. There the keys are one product, of
    [c_R, k_r] and for each head the matrix [[W_uk, 0], [0, 1]], which adds a
    hundredth to the FLOPs of a layer of DeepSeek-V3.
    """
    up_RHK, n, r = self._up(c_BLR.dtype), self.plain_dim, self.rotary_dim
    if self.platform == 'tpu':
      up_RHn, up_RHV = jnp.split(up_RHK, [n], axis=-1)
      one_rHr = jnp.broadcast_to(
        jnp.eye(r, dtype=up_RHK.dtype)[:, None], (r, up_RHK.shape[1], r)
      )
      joint_RHK = jnp.concatenate([
        jnp.pad(up_RHn, ((0, 0), (0, 0), (0, r))),
        jnp.pad(one_rHr, ((0, 0), (0, 0), (n, 0))),
      ])
      joint_BLR = jnp.concatenate([c_BLR, k_BL1r[:, :, 0]], axis=-1)
      return self.linear(joint_BLR, joint_RHK), self.linear(c_BLR, up_RHV)
    k_BLHn, v_BLHV = jnp.split(self.linear(c_BLR, up_RHK), [n], axis=-1)
    shared = jnp.broadcast_to(k_BL1r, (*k_BLHn.shape[:-1], r))
    return jnp.concatenate([k_BLHn, shared], axis=-1), v_BLHV

  def _up(self, dtype):
    return self.w_ukv_RHK[...].astype(dtype)

  def _output(self, o_BLHV: jax.Array) -> jax.Array:
    w_o = self.w_o_HVD[...].astype(o_BLHV.dtype)
    return self.linear(o_BLHV, w_o, contract=2)
