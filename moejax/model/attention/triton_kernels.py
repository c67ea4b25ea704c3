"""Attention's three Pallas kernels for NVIDIA GPUs, which Triton compiles.

  out, lse = forward(sizes, q, k, v, segment)
  dq = queries_gradient(sizes, q, k, v, segment, dout, lse, delta)
  dk, dv = keys_gradient(sizes, q, k, v, segment, dout, lse, delta)

The online softmax is that of FlashAttention-2 (arXiv 2307.08691, algorithms 1
and 2), with powers of two in place of those of e. A program of the first two
kernels has one block of queries and visits the blocks of keys up to it; a
program of the last has one block of keys, and visits the blocks of queries from
it on, of every head that reads these keys.

A tile's sides are powers of two on a GPU. Heads of other widths are read in
pieces: 192 features are tiles of 128 and 64, so that none is multiplied in
vain.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from moejax.moe.compute import triton_grouped_matmul

# Names of the kernels, by which a program's text is read.
FORWARD = 'moejax_triton_attention'
QUERIES = 'moejax_triton_attention_dq'
KEYS = 'moejax_triton_attention_dkv'
# Products of each kernel, for a pair of a query and a key: so many over the
# features of keys, and so many over those of values.
PRODUCTS = {
  FORWARD: (1, 1),  # scores; output
  QUERIES: (2, 1),  # scores, dq; the scores' gradient
  KEYS: (2, 2),  # scores, dk; the scores' gradient, dv
}
# Tensor cores multiply at least 16 by 16 by 16.
SMALLEST = triton_grouped_matmul.SMALLEST
# Score of a hidden key; finite, so that a block with hidden keys alone is too.
_NEVER = -1e30
# The blocks that a core has memory for (227 KiB, and on Blackwell 512 columns
# of tensor memory) and, with factors of two bytes, registers: bytes of a key
# with its value up to which they hold; tokens of a program's own block; of the
# blocks of keys that a block of queries visits; of the blocks of queries that
# a block of keys visits.
_BLOCKS = ((512, 128, 64, 32), (768, 64, 64, 64), (2048, 32, 32, 32))
# Bytes of the widest key with its value.
WIDEST = _BLOCKS[-1][0]
_NUM_WARPS, _NUM_STAGES = 8, 2


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes and settings of the kernels, all static.

  Attributes:
    own: tokens of the block that a program has.
    keys: tokens of the blocks of keys that it visits; divides `own`.
    queries: the same of queries.
    scale: the factor of scores.
    interpret: runs the kernels step by step on any platform; for tests.
  """

  own: int
  keys: int
  queries: int
  scale: float
  interpret: bool = False

  def pairs(self, length: int) -> int:
    """Pairs of a query and a key that a kernel computes, for a head of a row.

    Example: 256 tokens in blocks of 128. The first block of queries meets one
    block of keys, the second two: 3 x 128 x 128 pairs.

    Args:
      length: tokens of a row, a multiple of `own`.
    """
    blocks = length // self.own
    return self.own**2 * blocks * (blocks + 1) // 2


def sizes(
  length: int, row_bytes: int, scale: float = 1.0, interpret: bool = False
) -> Sizes:
  """The sizes of the kernels' blocks: powers of two.

  Args:
    length: tokens of a row.
    row_bytes: bytes of a key and its value; at most WIDEST.
    scale: see `Sizes`.
    interpret: see `Sizes`.
  """
  fit = next(blocks for limit, *blocks in _BLOCKS if row_bytes <= limit)
  most = max(SMALLEST, pl.next_power_of_2(length))
  own, keys, queries = (min(tokens, most) for tokens in fit)
  return Sizes(own, keys, queries, scale, interpret)


def pieces(width: int) -> list[tuple[int, int]]:
  """Starts and sizes of the tiles of a head: powers of two, the largest first.

  Example: 192 features are [(0, 128), (128, 64)].

  Args:
    width: a multiple of SMALLEST.
  """
  found, start = [], 0
  while start < width:
    size = 2 ** int(math.log2(width - start))
    found.append((start, size))
    start += size
  return found


def forward(
  sizes: Sizes,
  q_BLHK: jax.Array,
  k_BLGK: jax.Array,
  v_BLGV: jax.Array,
  segment_BL: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """The output, and the logarithms to base 2 of the sums of exponentials.

  Args:
    sizes: see `Sizes`; L is a multiple of `own`.
    q_BLHK: queries; K and V are multiples of SMALLEST, G divides H.
    k_BLGK: keys.
    v_BLGV: values.
    segment_BL: int32, number of each token's document.

  Returns:
    out_BLHV in the type of the queries, lse_BHL in float32.
  """
  B, L, H, _ = q_BLHK.shape
  out = jax.ShapeDtypeStruct((B, L, H, v_BLGV.shape[3]), q_BLHK.dtype)
  lse = jax.ShapeDtypeStruct((B, H, L), jnp.float32)
  arrays = (q_BLHK, k_BLGK, v_BLGV, segment_BL)
  grid = (L // sizes.own, H, B)
  return _call(sizes, _forward, FORWARD, grid, [out, lse], arrays)


def queries_gradient(sizes: Sizes, q_BLHK: jax.Array, *rest: Any) -> jax.Array:
  """dq_BLHK; arguments as those of `forward`, and then as `_Back` has them."""
  B, L, H, _ = q_BLHK.shape
  dq = jax.ShapeDtypeStruct(q_BLHK.shape, q_BLHK.dtype)
  grid = (L // sizes.own, H, B)
  return _call(sizes, _queries, QUERIES, grid, [dq], (q_BLHK, *rest))[0]


def keys_gradient(
  sizes: Sizes, q_BLHK: jax.Array, k: jax.Array, v: jax.Array, *rest: Any
) -> tuple[jax.Array, jax.Array]:
  """dk_BLGK and dv_BLGV, summed over the heads that share a key head."""
  B, L, G, _ = k.shape
  outs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k, v)]
  grid = (L // sizes.own, G, B)
  return _call(sizes, _keys, KEYS, grid, outs, (q_BLHK, k, v, *rest))


def _call(sizes, kernel, name, grid, outs, arrays):
  return pl.pallas_call(
    functools.partial(kernel, sizes),
    grid=grid,
    out_shape=tuple(outs),
    name=name,
    interpret=sizes.interpret,
    compiler_params=plgpu.CompilerParams(
      num_warps=_NUM_WARPS, num_stages=_NUM_STAGES
    ),
  )(*arrays)


def _forward(sizes, q_ref, k_ref, v_ref, segment_ref, out_ref, lse_ref):
  # The last queries have the most keys: they come first.
  block = pl.num_programs(0) - 1 - pl.program_id(0)
  head, row = pl.program_id(1), pl.program_id(2)
  key_head = head // (q_ref.shape[2] // k_ref.shape[2])
  queries = pl.ds(block * sizes.own, sizes.own)
  q_QK = _read(q_ref, row, queries, head)
  seen = _Seen(sizes, segment_ref, row)

  def add(step, sums):
    top_Q, total_Q, out_QV = sums
    keys = pl.ds(step * sizes.keys, sizes.keys)
    score_QS = seen.scores(
      q_QK, _read(k_ref, row, keys, key_head), queries, keys
    )
    new_top_Q = jnp.maximum(top_Q, jnp.max(score_QS, axis=1))
    exp_QS = jnp.exp2(score_QS - new_top_Q[:, None])
    less_Q = jnp.exp2(top_Q - new_top_Q)
    v_SV = _read(v_ref, row, keys, key_head)
    out_QV = tuple(
      out * less_Q[:, None] + _dot(exp_QS.astype(v.dtype), v)
      for out, v in zip(out_QV, v_SV, strict=True)
    )
    return new_top_Q, total_Q * less_Q + jnp.sum(exp_QS, axis=1), out_QV

  zero_Q = jnp.zeros((sizes.own,), jnp.float32)
  steps = (block + 1) * (sizes.own // sizes.keys)
  top_Q, total_Q, out_QV = jax.lax.fori_loop(
    jnp.int32(0),
    steps,
    add,
    (zero_Q + _NEVER, zero_Q, _zeros(sizes.own, v_ref.shape[3])),
  )
  _write(out_ref, row, queries, head, [x / total_Q[:, None] for x in out_QV])
  plgpu.store(lse_ref.at[row, head, queries], top_Q + jnp.log2(total_Q))


def _queries(sizes, q_ref, k_ref, v_ref, segment_ref, *refs):
  *kept, dq_ref = refs
  block = pl.num_programs(0) - 1 - pl.program_id(0)
  head, row = pl.program_id(1), pl.program_id(2)
  key_head = head // (q_ref.shape[2] // k_ref.shape[2])
  queries = pl.ds(block * sizes.own, sizes.own)
  q_QK = _read(q_ref, row, queries, head)
  back = _Back(kept, row, queries, head)
  seen = _Seen(sizes, segment_ref, row)

  def add(step, dq_QK):
    keys = pl.ds(step * sizes.keys, sizes.keys)
    k_SK = _read(k_ref, row, keys, key_head)
    prob_QS = back.prob(seen.scores(q_QK, k_SK, queries, keys))
    dscore_QS = back.dscore(prob_QS, _read(v_ref, row, keys, key_head))
    dscore_QS = dscore_QS.astype(k_ref.dtype)
    return tuple(
      dq + _dot(dscore_QS, k) for dq, k in zip(dq_QK, k_SK, strict=True)
    )

  steps = (block + 1) * (sizes.own // sizes.keys)
  dq_QK = jax.lax.fori_loop(
    jnp.int32(0), steps, add, _zeros(sizes.own, q_ref.shape[3])
  )
  _write(dq_ref, row, queries, head, [x * sizes.scale for x in dq_QK])


def _keys(sizes, q_ref, k_ref, v_ref, segment_ref, *refs):
  *kept, dk_ref, dv_ref = refs
  block, key_head = pl.program_id(0), pl.program_id(1)
  row = pl.program_id(2)
  share = q_ref.shape[2] // k_ref.shape[2]
  keys = pl.ds(block * sizes.own, sizes.own)
  k_SK = _read(k_ref, row, keys, key_head)
  v_SV = _read(v_ref, row, keys, key_head)
  seen = _Seen(sizes, segment_ref, row)
  first = block * (sizes.own // sizes.queries)
  behind = q_ref.shape[1] // sizes.queries - first

  def add(step, grads):
    dk_SK, dv_SV = grads
    head = key_head * share + step // behind
    queries = pl.ds((first + step % behind) * sizes.queries, sizes.queries)
    q_QK = _read(q_ref, row, queries, head)
    back = _Back(kept, row, queries, head)
    prob_QS = back.prob(seen.scores(q_QK, k_SK, queries, keys))
    dscore_QS = back.dscore(prob_QS, v_SV).astype(q_ref.dtype)
    prob_QS = prob_QS.astype(q_ref.dtype)
    return (
      _added(dk_SK, dscore_QS, q_QK),
      _added(dv_SV, prob_QS, back.dout_QV),
    )

  dk_SK, dv_SV = jax.lax.fori_loop(
    jnp.int32(0),
    share * behind,
    add,
    tuple(_zeros(sizes.own, ref.shape[3]) for ref in (k_ref, v_ref)),
  )
  _write(dk_ref, row, keys, key_head, [x * sizes.scale for x in dk_SK])
  _write(dv_ref, row, keys, key_head, dv_SV)


class _Seen:
  """Scores of a row, as far as the mask lets them be seen."""

  def __init__(self, sizes: Sizes, segment_ref: Any, row: jax.Array):
    self._scale = sizes.scale * math.log2(math.e)
    self._segment, self._row = segment_ref, row

  def scores(self, q_QK: Any, k_SK: Any, queries: Any, keys: Any) -> jax.Array:
    """Scores [Q, S] of two blocks, to be powers of two."""
    score_QS = sum(
      _dot(q, k, trans_b=True) for q, k in zip(q_QK, k_SK, strict=True)
    )
    place_Q, place_S = (
      block.start + jnp.arange(block.size) for block in (queries, keys)
    )
    segment_Q, segment_S = (
      plgpu.load(self._segment.at[self._row, block])
      for block in (queries, keys)
    )
    mask_QS = (place_Q[:, None] >= place_S[None]) & (
      segment_Q[:, None] == segment_S[None]
    )
    return jnp.where(mask_QS, score_QS * self._scale, _NEVER)


class _Back:
  """What the backward pass needs of a block of queries.

  The gradient of its output, the logarithms of the sums of exponentials, and
  the sums over features of the gradient times the output.
  """

  def __init__(self, kept: Any, row: jax.Array, queries: Any, head: jax.Array):
    dout_ref, lse_ref, delta_ref = kept
    self.dout_QV = _read(dout_ref, row, queries, head)
    self._lse_Q = plgpu.load(lse_ref.at[row, head, queries])
    self._delta_Q = plgpu.load(delta_ref.at[row, head, queries])

  def prob(self, score_QS: jax.Array) -> jax.Array:
    return jnp.exp2(score_QS - self._lse_Q[:, None])

  def dscore(self, prob_QS: jax.Array, v_SV: Any) -> jax.Array:
    """The gradient of the scores, before they are scaled."""
    dprob_QS = sum(
      _dot(dout, v, trans_b=True)
      for dout, v in zip(self.dout_QV, v_SV, strict=True)
    )
    return prob_QS * (dprob_QS - self._delta_Q[:, None])


def _read(ref: Any, row: Any, tokens: Any, head: Any) -> tuple[jax.Array, ...]:
  """The tiles of a block of tokens of a head."""
  return tuple(
    plgpu.load(ref.at[row, tokens, head, pl.ds(start, size)])
    for start, size in pieces(ref.shape[3])
  )


def _write(ref: Any, row: Any, tokens: Any, head: Any, tiles: Any) -> None:
  for (start, size), x in zip(pieces(ref.shape[3]), tiles, strict=True):
    place = ref.at[row, tokens, head, pl.ds(start, size)]
    plgpu.store(place, x.astype(ref.dtype))


def _zeros(tokens: int, width: int) -> tuple[jax.Array, ...]:
  return tuple(
    jnp.zeros((tokens, size), jnp.float32) for _, size in pieces(width)
  )


def _added(sums: Any, weight_QS: jax.Array, x_Q: Any) -> tuple[jax.Array, ...]:
  """Tiles plus those of the sum over queries of weight times x."""
  return tuple(
    total + _dot(weight_QS, x, trans_a=True)
    for total, x in zip(sums, x_Q, strict=True)
  )


def _dot(a: jax.Array, b: jax.Array, **how: bool) -> jax.Array:
  return plgpu.dot(a, b, allow_tf32=triton_grouped_matmul.rounds(), **how)
