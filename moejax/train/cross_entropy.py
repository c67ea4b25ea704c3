"""The output head and the cross-entropy in one, chunk by chunk.

  sum_nll, nll_BL, correct_BL = cross_entropy(
    x_BLD, w_DV, target_BL, weight_BL, chunk_tokens=512, shards=1)

The logits of the whole batch are never in memory at once. The gradient is
computed in the forward pass, while the logits of a chunk are in memory. That
takes three matrix products instead of the four of recomputation. If no gradient
is asked for, only the product of the forward pass is computed.
"""

import functools

import jax
import jax.numpy as jnp

from moejax.core import errors, linear, varying
from moejax.parallel import mesh as meshes

# Number of tokens of a chunk, by platform. Every chunk reads and writes the
# gradient of the head once: cheap in a CPU's cache, but 0.8 GB for a vocabulary
# of 100K on an accelerator, where chunks are therefore larger.
CHUNK_TOKENS = {'cpu': 512}
CHUNK_ELSEWHERE = 4096


def chunk_tokens(mesh: jax.sharding.Mesh) -> int:
  """Number of tokens of a chunk on one device, in training and evaluation."""
  platform = mesh.devices.flat[0].platform
  return CHUNK_TOKENS.get(platform, CHUNK_ELSEWHERE)


def on_mesh(
  x_BLD: jax.Array,
  w_DV: jax.Array,
  target_BL: jax.Array,
  weight_BL: jax.Array,
  mesh: jax.sharding.Mesh,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`cross_entropy` with the chunks and shards that suit a mesh."""
  return cross_entropy(
    x_BLD,
    w_DV,
    target_BL,
    weight_BL,
    chunk_tokens=chunk_tokens(mesh),
    shards=meshes.batch_size(mesh),
    platform=mesh.devices.flat[0].platform,
  )


def cross_entropy(
  x_BLD: jax.Array,
  w_DV: jax.Array,
  target_BL: jax.Array,
  weight_BL: jax.Array,
  chunk_tokens: int = 512,
  shards: int = 1,
  platform: str = '',
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Negative log-likelihood of the targets under softmax(x @ w).

  The matrix product has factors of the dtype of `x_BLD` and is summed in
  float32. All else is float32.

  Args:
    x_BLD: input of the head, already normalised.
    w_DV: the head, or the transposed embedding. Constrain it to a sharding
      that leaves D whole; otherwise every chunk sums its logits over devices.
    target_BL: int32 in [0, V).
    weight_BL: float32; a position of weight 0 is left out.
    chunk_tokens: number of tokens of a chunk on one device.
    shards: number of devices over which B is split (data x fsdp x expert). Each
      of them adds up its own gradient of `w_DV`, and the gradients are summed
      over devices once, at the end, not once per chunk. Must divide B.
    platform: of the devices, which may have its own form of a product.

  Returns:
    The sum of nll * weight over all positions (float32), which the caller
      divides by the sum of the weights. Only this result has gradients: to
      `x_BLD`, `w_DV` and `weight_BL`.
    The nll of each position in nats (float32 [B, L]).
    Whether no token scores higher than the target (bool [B, L]).

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
    """[chunks, shards, tokens of the chunk] -> [B, L]."""
    x_NSBC = x_NSC.reshape(num_chunks, shards, B // shards, size)
    return jnp.moveaxis(x_NSBC, 0, 2).reshape(B, -1)[:, :L]

  chunks = (split(x_BLD), split(target_BL), split(weight_BL))
  x_NSCD, w_DV, target_NSC, weight_NSC = varying.together(
    chunks[0], w_DV, *chunks[1:]
  )
  sum_nll, nll_NSC, correct_NSC = _chunks(
    platform, x_NSCD, w_DV, weight_NSC.astype(jnp.float32), target_NSC
  )
  return sum_nll, jax.lax.stop_gradient(join(nll_NSC)), join(correct_NSC)


def _chunk(x_SCD, w_DV, target_SC):
  """One chunk: (nll_SC, correct_SC), and arrays to compute its gradient.

  `own` is one-hot at the target.
  """
  logit_SCV = _dot('scd,dv->scv', x_SCD, w_DV)
  own_SCV = jnp.arange(w_DV.shape[1]) == target_SC[..., None]
  # A sum, because V may be split over devices; indexing would gather it.
  own_SC = jnp.sum(jnp.where(own_SCV, logit_SCV, 0), axis=-1)
  top_SC = jnp.max(logit_SCV, axis=-1)
  exp_SCV = jnp.exp(logit_SCV - top_SC[..., None])
  total_SC = jnp.sum(exp_SCV, axis=-1)
  nll_SC = jnp.log(total_SC) + top_SC - own_SC
  return (nll_SC, own_SC >= top_SC), (exp_SCV, total_SC, own_SCV)


def _over_rows(a_SCD, b_SCV):
  return _dot('scd,scv->sdv', a_SCD, b_SCV)


# The gradient of the head by a chunk, where it is not that of `_over_rows`.
_OVER_ROWS = {'cpu': jax.vmap(linear.over_rows)}


def _dot(dims, a, b):
  return jnp.einsum(dims, a, b, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunks(platform, x_NSCD, w_DV, weight_NSC, target_NSC):
  del platform
  w_DV = w_DV.astype(x_NSCD.dtype)

  def body(chunk):
    return _chunk(chunk[0], w_DV, chunk[1])[0]

  nll_NSC, correct_NSC = jax.lax.map(body, (x_NSCD, target_NSC))
  return jnp.sum(nll_NSC * weight_NSC), nll_NSC, correct_NSC


def _chunks_fwd(platform, x_NSCD, w_DV, weight_NSC, target_NSC):
  dtype, param_dtype = x_NSCD.dtype, w_DV.dtype
  w_DV = w_DV.astype(dtype)

  def body(dw_SDV, chunk):
    x_SCD, weight_SC, target_SC = chunk
    outs, (exp_SCV, total_SC, own_SCV) = _chunk(x_SCD, w_DV, target_SC)
    # The gradient of a logit is (exp / total - own) * weight. As a product of
    # (exp - total * own) and weight / total, the second factor, one number per
    # token, can be applied to x and dx, which are smaller than the logits.
    dlogit_SCV = jnp.where(own_SCV, exp_SCV - total_SC[..., None], exp_SCV)
    dlogit_SCV = dlogit_SCV.astype(dtype)
    scale_SC1 = (weight_SC / total_SC)[..., None]
    dx_SCD = _dot('scv,dv->scd', dlogit_SCV, w_DV) * scale_SC1
    scaled_SCD = (x_SCD * scale_SC1).astype(dtype)
    dw_SDV += _OVER_ROWS.get(platform, _over_rows)(scaled_SCD, dlogit_SCV)
    return dw_SDV, (*outs, dx_SCD.astype(dtype))

  dw_SDV = jnp.zeros((x_NSCD.shape[1], *w_DV.shape), jnp.float32)
  dw_SDV, (nll_NSC, correct_NSC, dx_NSCD) = jax.lax.scan(
    body, varying.like(dw_SDV, x_NSCD), (x_NSCD, weight_NSC, target_NSC)
  )
  sum_nll = jnp.sum(nll_NSC * weight_NSC)
  dw_DV = jnp.sum(dw_SDV, axis=0).astype(param_dtype)
  return (sum_nll, nll_NSC, correct_NSC), (dx_NSCD, dw_DV, nll_NSC)


def _chunks_bwd(platform, residuals, cotangents):
  del platform
  scale = cotangents[0]
  dx_NSCD, dw_DV, dweight_NSC = ((x * scale).astype(x.dtype) for x in residuals)
  return dx_NSCD, dw_DV, dweight_NSC, None


_chunks.defvjp(_chunks_fwd, _chunks_bwd)
