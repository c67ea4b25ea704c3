"""Multi-head and grouped-query attention around the attention core."""

import jax
import jax.numpy as jnp
from flax import nnx

from moejax.model import attend, rope
from moejax.model.config import ModelConfig


class Attention(nnx.Module):
  """Causal self-attention in which packed documents never see each other."""

  def __init__(self, config: ModelConfig, platform: str, key: jax.Array):
    heads, groups = config.num_heads, config.kv_heads
    keys = jax.random.split(key, 4)
    shape_q = (config.width, heads, config.head_dim)
    shape_kv = (config.width, groups, config.head_dim)

    def param(key, shape, axes):
      return nnx.Param(
        config.init_std * jax.random.normal(key, shape), axes=axes
      )

    axes_in = ('embed', 'heads', 'head_dim')
    self.w_q_DHK = param(keys[0], shape_q, axes_in)
    self.w_k_DGK = param(keys[1], shape_kv, axes_in)
    self.w_v_DGK = param(keys[2], shape_kv, axes_in)
    self.w_o_HKD = param(
      keys[3],
      (heads, config.head_dim, config.width),
      ('heads', 'head_dim', 'embed'),
    )
    self.core = attend.choose(config.attention, platform)

  def __call__(
    self,
    x_BLD: jax.Array,
    turn: tuple[jax.Array, jax.Array],
    segment_BL: jax.Array,
  ) -> jax.Array:
    """Tokens see earlier tokens of their own segment."""
    q_BLHK, k_BLGK, v_BLGK = self._project(x_BLD, turn)
    return self._output(self.core(q_BLHK, k_BLGK, v_BLGK, segment_BL))

  def step(
    self,
    x_BLD: jax.Array,
    turn: tuple[jax.Array, jax.Array],
    position_BL: jax.Array,
    cache: tuple[jax.Array, jax.Array],
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The same with earlier tokens in a cache, which is returned with these."""
    q_BLHK, k_BLGK, v_BLGK = self._project(x_BLD, turn)
    row_B1 = jnp.arange(x_BLD.shape[0])[:, None]
    k_BSGK = cache[0].at[row_B1, position_BL].set(k_BLGK)
    v_BSGK = cache[1].at[row_B1, position_BL].set(v_BLGK)
    slot_S = jnp.arange(k_BSGK.shape[1])
    mask_BLS = slot_S <= position_BL[..., None]
    o_BLHK = attend.attend_cache(q_BLHK, k_BSGK, v_BSGK, mask_BLS)
    return self._output(o_BLHK), (k_BSGK, v_BSGK)

  def _project(self, x_BLD, turn):
    q, k, v = (
      jnp.einsum('BLD,DHK->BLHK', x_BLD, w[...].astype(x_BLD.dtype))
      for w in (self.w_q_DHK, self.w_k_DGK, self.w_v_DGK)
    )
    return rope.rotate(q, turn), rope.rotate(k, turn), v

  def _output(self, o_BLHK: jax.Array) -> jax.Array:
    w_o = self.w_o_HKD[...].astype(o_BLHK.dtype)
    return jnp.einsum('BLHK,HKD->BLD', o_BLHK, w_o)
