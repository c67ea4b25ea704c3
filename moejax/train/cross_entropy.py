"""The output head and the cross-entropy in one, chunk by chunk.

  sum_nll, nll_BL, correct_BL = cross_entropy(
    x_BLD, w_DV, target_BL, weight_BL, chunk_tokens=512, shards=1)

`sum_nll` (float32) is the sum of nll * weight, to be divided by the sum of
weights by the caller; it alone has gradients, to `x_BLD` and `w_DV`. `nll_BL`
(float32) and `correct_BL` (bool: no other token scores higher) are for
evaluation. The logits of the whole batch never exist at once.

`shards` is the number of devices over which the batch dim is split (data x
fsdp); `chunk_tokens` counts the tokens of one shard.
"""


import jax
import jax.numpy as jnp


def cross_entropy(
  x_BLD: jax.Array,
  w_DV: jax.Array,
  target_BL: jax.Array,
  weight_BL: jax.Array,
  chunk_tokens: int = 512,
  shards: int = 1,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Sum of weighted negative log-likelihoods; see the module's docstring."""
  del shards
  B, L, D = x_BLD.shape
  size = max(1, min(L, chunk_tokens // B))
  num = -(-L // size)
  pad = num * size - L

  def split(x_BL):
    x_BL = jnp.pad(x_BL, [(0, 0), (0, pad)] + [(0, 0)] * (x_BL.ndim - 2))
    x_BNC = x_BL.reshape(B, num, size, *x_BL.shape[2:])
    return jnp.moveaxis(x_BNC, 1, 0)

  @jax.checkpoint
  def chunk(total, xs):
    x_BCD, target_BC, weight_BC = xs
    logit_BCV = jnp.einsum(
      'bcd,dv->bcv',
      x_BCD,
      w_DV.astype(x_BCD.dtype),
      preferred_element_type=jnp.float32,
    )
    top_BC = logit_BCV.max(-1)
    lse_BC = jax.nn.logsumexp(logit_BCV, axis=-1)
    own_BC = jnp.take_along_axis(logit_BCV, target_BC[..., None], -1)[..., 0]
    nll_BC = lse_BC - own_BC
    return total + jnp.sum(nll_BC * weight_BC), (nll_BC, own_BC >= top_BC)

  total, (nll_NBC, correct_NBC) = jax.lax.scan(
    chunk, jnp.float32(0), (split(x_BLD), split(target_BL), split(weight_BL))
  )

  def join(x_NBC):
    return jnp.moveaxis(x_NBC, 0, 1).reshape(B, -1)[:, :L]

  nll_BL = jax.lax.stop_gradient(join(nll_NBC))
  return total, nll_BL, join(correct_NBC)
