"""The output head and the cross-entropy in one, chunk by chunk.

  sum_nll, nll_BL, correct_BL = cross_entropy(
    x_BLD, w_DV, target_BL, weight_BL, chunk_tokens=512, shards=1)

The logits of the whole batch never exist at once, and the gradient is made in
the forward pass, where the logits of a chunk are at hand: three matrix products
instead of the four of recomputation. When no gradient is asked for, it is the
forward product alone.
"""

import jax
import jax.numpy as jnp

from moejax.core import errors, varying

# Tokens whose logits exist at a time. Each chunk adds to the gradient of the
# head, which is read and written once more: little in a CPU's cache, and 0.8 GB
# for a vocabulary of 100K on an accelerator.
CHUNK_TOKENS = {'cpu': 512}
CHUNK_ELSEWHERE = 4096


def chunk_tokens(mesh: jax.sharding.Mesh) -> int:
  """Tokens whose logits exist at a time, in training and in evaluation."""
  platform = mesh.devices.flat[0].platform
  return CHUNK_TOKENS.get(platform, CHUNK_ELSEWHERE)


def cross_entropy(
  x_BLD: jax.Array,
  w_DV: jax.Array,
  target_BL: jax.Array,
  weight_BL: jax.Array,
  chunk_tokens: int = 512,
  shards: int = 1,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Negative log-likelihood of the targets under softmax(x @ w).

  The product is made in the dtype of `x_BLD` and summed in float32, the rest
  is float32.

  Args:
    x_BLD: what goes into the head, already normalised.
    w_DV: the head, or the transposed embedding. Constrain it to a sharding
      that leaves D whole, or every chunk sums its logits over devices.
    target_BL: int32 in [0, V).
    weight_BL: float32; 0 leaves a place out.
    chunk_tokens: tokens whose logits exist at a time, on one device.
    shards: over how many devices B is split (data times fsdp). Then each keeps
      its own part of the gradient of `w_DV` and they meet once, at the end,
      not once per chunk. Must divide B.

  Returns:
    The sum of nll * weight (float32), to be divided by the sum of the weights
    by the caller; it alone has gradients, to `x_BLD`, `w_DV` and `weight_BL`.
    The nll of each place (float32 [B, L]). Where no token scores higher than
    the target (bool [B, L]).

  Raises:
    InputError: `shards` does not divide B.
  """
  B, L, D = x_BLD.shape
  if B % shards:
    raise errors.InputError(
      f'{shards} shards of the batch do not divide its {B} rows'
    )
  num_chunks = -(-L * B // (shards * chunk_tokens))
  size = -(-L // min(num_chunks, L))
  num_chunks = -(-L // size)

  def split(x_BL):
    """[B, L, ...] -> [chunks, shards, tokens of the chunk, ...]."""
    pad = [(0, 0), (0, num_chunks * size - L)] + [(0, 0)] * (x_BL.ndim - 2)
    shape = (shards, B // shards, num_chunks, size, *x_BL.shape[2:])
    x_SBNC = jnp.pad(x_BL, pad).reshape(shape)
    x_NSBC = jnp.moveaxis(x_SBNC, 2, 0)
    return x_NSBC.reshape(num_chunks, shards, -1, *x_BL.shape[2:])

  def join(x_NSC):
    x_NSBC = x_NSC.reshape(num_chunks, shards, B // shards, size)
    return jnp.moveaxis(x_NSBC, 0, 2).reshape(B, -1)[:, :L]

  chunks = (split(x_BLD), split(target_BL), split(weight_BL))
  x_NSCD, w_DV, target_NSC, weight_NSC = varying.together(
    chunks[0], w_DV, *chunks[1:]
  )
  sum_nll, nll_NSC, correct_NSC = _chunks(
    x_NSCD, w_DV, weight_NSC.astype(jnp.float32), target_NSC
  )
  return sum_nll, jax.lax.stop_gradient(join(nll_NSC)), join(correct_NSC)


def _chunk(x_SCD, w_DV, target_SC):
  """One chunk: (nll_SC, correct_SC) and what its gradient is made of."""
  logit_SCV = _dot('scd,dv->scv', x_SCD, w_DV)
  own_SCV = jnp.arange(w_DV.shape[1]) == target_SC[..., None]
  # A sum, since V may lie split over devices, where indexing would gather it.
  own_SC = jnp.sum(jnp.where(own_SCV, logit_SCV, 0), axis=-1)
  top_SC = jnp.max(logit_SCV, axis=-1)
  exp_SCV = jnp.exp(logit_SCV - top_SC[..., None])
  total_SC = jnp.sum(exp_SCV, axis=-1)
  nll_SC = jnp.log(total_SC) + top_SC - own_SC
  return (nll_SC, own_SC >= top_SC), (exp_SCV, total_SC, own_SCV)


def _dot(dims, a, b):
  return jnp.einsum(dims, a, b, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _chunks(x_NSCD, w_DV, weight_NSC, target_NSC):
  w_DV = w_DV.astype(x_NSCD.dtype)

  def body(chunk):
    return _chunk(chunk[0], w_DV, chunk[1])[0]

  nll_NSC, correct_NSC = jax.lax.map(body, (x_NSCD, target_NSC))
  return jnp.sum(nll_NSC * weight_NSC), nll_NSC, correct_NSC


def _chunks_fwd(x_NSCD, w_DV, weight_NSC, target_NSC):
  dtype, param_dtype = x_NSCD.dtype, w_DV.dtype
  w_DV = w_DV.astype(dtype)

  def body(dw_SDV, chunk):
    x_SCD, weight_SC, target_SC = chunk
    outs, (exp_SCV, total_SC, own_SCV) = _chunk(x_SCD, w_DV, target_SC)
    # dlogit = (exp / total - own) * weight; the factor of the row is applied
    # to the small arrays beside it.
    dlogit_SCV = jnp.where(own_SCV, exp_SCV - total_SC[..., None], exp_SCV)
    dlogit_SCV = dlogit_SCV.astype(dtype)
    scale_SC1 = (weight_SC / total_SC)[..., None]
    dx_SCD = _dot('scv,dv->scd', dlogit_SCV, w_DV) * scale_SC1
    scaled_SCD = (x_SCD * scale_SC1).astype(dtype)
    dw_SDV += _dot('scd,scv->sdv', scaled_SCD, dlogit_SCV)
    return dw_SDV, (*outs, dx_SCD.astype(dtype))

  dw_SDV = jnp.zeros((x_NSCD.shape[1], *w_DV.shape), jnp.float32)
  dw_SDV, (nll_NSC, correct_NSC, dx_NSCD) = jax.lax.scan(
    body, varying.like(dw_SDV, x_NSCD), (x_NSCD, weight_NSC, target_NSC)
  )
  sum_nll = jnp.sum(nll_NSC * weight_NSC)
  dw_DV = jnp.sum(dw_SDV, axis=0).astype(param_dtype)
  return (sum_nll, nll_NSC, correct_NSC), (dx_NSCD, dw_DV, nll_NSC)


def _chunks_bwd(kept, cotangents):
  scale = cotangents[0]
  dx_NSCD, dw_DV, dweight_NSC = ((x * scale).astype(x.dtype) for x in kept)
  return dx_NSCD, dw_DV, dweight_NSC, None


_chunks.defvjp(_chunks_fwd, _chunks_bwd)
