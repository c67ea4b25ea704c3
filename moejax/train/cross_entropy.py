"""The output head and the cross-entropy in one, chunk by chunk.

  sum_nll, nll_BL, correct_BL = cross_entropy(
    x_BLD, w_DV, target_BL, weight_BL, chunk_tokens=512, shards=1)

The logits of the whole batch are never in memory at once. The gradient is
computed in the forward pass, while the logits of a chunk are in memory. That
takes three matrix products instead of the four of recomputation. If no gradient
is asked for, only the product of the forward pass is computed.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from moejax.core import errors, linear, varying
from moejax.parallel import context
from moejax.parallel import mesh as meshes

# Number of tokens of a chunk, by platform. Every chunk reads and writes the
# gradient of the head once: cheap in a CPU's cache, but 0.8 GB for a vocabulary
# of 100K on an accelerator, where chunks are therefore larger.
CHUNK_TOKENS = {'cpu': 512}
CHUNK_ELSEWHERE = 4096


@dataclasses.dataclass(frozen=True)
class Chunks:
  """The positions [B, L] of a batch, split into chunks of equal size.

  Each of the shards of B has its own part of every chunk, so that no position
  changes its device.

  Attributes:
    rows: B.
    length: L.
    shards: number of devices over which B is split.
    size: positions of a row in a chunk.
  """

  rows: int
  length: int
  shards: int
  size: int

  @classmethod
  def of(cls, x_BL: jax.Array, chunk_tokens: int, shards: int) -> 'Chunks':
    """Chunks of at most about `chunk_tokens` tokens of one device.

    Args:
      x_BL: an array with the positions of the batch.
      chunk_tokens: number of tokens of a chunk on one device.
      shards: number of devices over which B is split.

    Raises:
      InputError: `shards` does not divide the rows.
    """
    rows, length = x_BL.shape
    if rows % shards:
      raise errors.InputError(
        f'{shards} shards of the batch do not divide its {rows} rows'
      )
    num = -(-length * rows // (shards * chunk_tokens))
    return cls(rows, length, shards, -(-length // min(num, length)))

  def split(self, x_BL: jax.Array) -> jax.Array:
    """[B, L, ...] -> [chunks, shards, tokens of the chunk, ...]."""
    num, rest = -(-self.length // self.size), x_BL.shape[2:]
    pad = [(0, 0), (0, num * self.size - self.length)] + [(0, 0)] * len(rest)
    per_shard = self.rows // self.shards
    shape = (self.shards, per_shard, num, self.size, *rest)
    x_SBNC = jnp.pad(x_BL, pad).reshape(shape)
    x_NSBC = jnp.moveaxis(x_SBNC, 2, 0)
    return x_NSBC.reshape(num, self.shards, -1, *rest)

  def join(self, x_NSC: jax.Array) -> jax.Array:
    """[chunks, shards, tokens of the chunk] -> [B, L]."""
    per_shard = self.rows // self.shards
    x_NSBC = x_NSC.reshape(x_NSC.shape[0], self.shards, per_shard, self.size)
    x_BNC = jnp.moveaxis(x_NSBC, 0, 2)
    return x_BNC.reshape(self.rows, -1)[:, : self.length]


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
  places, join = by_place((x_BLD, target_BL, weight_BL), mesh)
  x_PSD, target_PS, weight_PS = places
  sum_nll, *by_token = cross_entropy(
    x_PSD,
    w_DV,
    target_PS,
    weight_PS,
    chunk_tokens=chunk_tokens(mesh),
    shards=meshes.batch_size(mesh),
    platform=mesh.devices.flat[0].platform,
  )
  nll_BL, correct_BL = join(by_token)
  return sum_nll, nll_BL, correct_BL


def by_place(
  tree: Any, mesh: jax.sharding.Mesh
) -> tuple[Any, Callable[[Any], Any]]:
  """Arrays [B, L, ...] as rows that divide over all shards of the batch.

  Where the mesh splits the length of rows, the rows are their pieces, in the
  order of the data: no token changes its device.

  Returns:
    The arrays, and a function that puts others of this form together again.
  """
  length = jax.tree.leaves(tree)[0].shape[1]
  if mesh.shape[context.AXIS] == 1 or length % mesh.shape[context.AXIS]:
    return tree, lambda tree: tree
  how = mesh, 'contiguous'
  return context.split(tree, *how), lambda tree: context.join(tree, *how)


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
  chunked = Chunks.of(target_BL, chunk_tokens, shards)
  chunks = [chunked.split(x) for x in (x_BLD, target_BL, weight_BL)]
  x_NSCD, w_DV, target_NSC, weight_NSC = varying.together(
    chunks[0], w_DV, *chunks[1:]
  )
  sum_nll, nll_NSC, correct_NSC = _chunks(
    platform, x_NSCD, w_DV, weight_NSC.astype(jnp.float32), target_NSC
  )
  nll_BL = jax.lax.stop_gradient(chunked.join(nll_NSC))
  return sum_nll, nll_BL, chunked.join(correct_NSC)


def _chunk(x_SCD, w_DV, target_SC):
  """`of_logits` of one chunk."""
  return of_logits(dot('scd,dv->scv', x_SCD, w_DV), target_SC)


def of_logits(logit_SCV: jax.Array, target_SC: jax.Array) -> Any:
  """(nll_SC, correct_SC), and arrays to compute the gradient.

  These are the exponentials of the logits [S, C, V], shifted by the largest,
  their sums [S, C], and one-hot bools at the targets [S, C, V].
  """
  own_SCV = jnp.arange(logit_SCV.shape[-1]) == target_SC[..., None]
  # A sum, because V may be split over devices; indexing would gather it.
  own_SC = jnp.sum(jnp.where(own_SCV, logit_SCV, 0), axis=-1)
  top_SC = jnp.max(logit_SCV, axis=-1)
  exp_SCV = jnp.exp(logit_SCV - top_SC[..., None])
  total_SC = jnp.sum(exp_SCV, axis=-1)
  nll_SC = jnp.log(total_SC) + top_SC - own_SC
  return (nll_SC, own_SC >= top_SC), (exp_SCV, total_SC, own_SCV)


def _over_rows(a_SCD, b_SCV):
  return dot('scd,scv->sdv', a_SCD, b_SCV)


# The gradient of the head by a chunk, where it is not that of `_over_rows`.
_OVER_ROWS = {'cpu': jax.vmap(linear.over_rows)}


def over_rows(platform: str, a_SCD: jax.Array, b_SCV: jax.Array) -> jax.Array:
  """The products [S, D, V] of two arrays, summed over the tokens of a chunk."""
  return _OVER_ROWS.get(platform, _over_rows)(a_SCD, b_SCV)


def dot(dims: str, a: jax.Array, b: jax.Array) -> jax.Array:
  """A product whose sums are float32; `dims` as of `jnp.einsum`."""
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
    dx_SCD = dot('scv,dv->scd', dlogit_SCV, w_DV) * scale_SC1
    scaled_SCD = (x_SCD * scale_SC1).astype(dtype)
    dw_SDV += over_rows(platform, scaled_SCD, dlogit_SCV)
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
