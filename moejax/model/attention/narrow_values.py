"""Values that are narrower than keys, as latent attention has them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def attend(
  core: Callable[..., jax.Array],
  q_BLHK: jax.Array,
  k_BLGK: jax.Array,
  v_BLGV: jax.Array,
  segment_BL: jax.Array,
) -> jax.Array:
  """The output [B, L, H, V] of any core; see `dot_product`.

  A core that says `takes_narrow_values` is given the values as they are. For
  others they are padded with zeros to the width of keys, and the output is cut.
  """
  if getattr(core, 'takes_narrow_values', False):
    return core(q_BLHK, k_BLGK, v_BLGV, segment_BL)
  K, V = k_BLGK.shape[-1], v_BLGV.shape[-1]
  v_BLGK = jnp.pad(v_BLGV, ((0, 0),) * 3 + ((0, K - V),))
  return core(q_BLHK, k_BLGK, v_BLGK, segment_BL)[..., :V]
