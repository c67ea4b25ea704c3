"""The attention core as a Pallas kernel for TPU: no score is written to HBM.

`jax.experimental.pallas.ops.tpu.splash_attention`, after FlashAttention (arXiv
2205.14135), computes blocks of queries against blocks of keys with an online
softmax, and skips blocks that the causal mask hides. The other implementations
write all L x L scores of a head to memory.

  attend = Splash(mesh)
  out_BLHK = attend(q_BLHK, k_BLGK, v_BLGK, segment_BL)   as in `dot_product.py`
"""

import dataclasses
from typing import Any, ClassVar

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as kernels,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as masks,
)

from moejax.model.attention import kernel_on_mesh

LANES = 128
BLOCKS = (1024, 512, 256, LANES)
# The name of the outputs for policies of `remat`.
NAME = 'attention'


@dataclasses.dataclass(frozen=True)
class Splash(kernel_on_mesh.KernelOnMesh):
  """Attention by the kernel, for lengths of a multiple of 128."""

  name: ClassVar[str] = 'splash'
  platform: ClassVar[str] = 'tpu'
  devices: ClassVar[str] = 'TPUs'

  def refuses(self, q: jax.Array, k: jax.Array, v: jax.Array) -> str:
    del k, v
    length = q.shape[1]
    if length % LANES:
      return f'needs sequences of a multiple of {LANES} tokens, not {length}'
    return ''

  def local(
    self,
    q_BLHK: jax.Array,
    k_BLGK: jax.Array,
    v_BLGV: jax.Array,
    segment_BL: jax.Array,
  ) -> jax.Array:
    return _local(self.interpret, q_BLHK, k_BLGK, v_BLGV, segment_BL)


def block(length: int, width: int = LANES) -> int:
  """The number of queries, and of keys, in a block.

  Heads of twice the width have blocks of half the size: the gradient of 1,024
  queries and keys of width 256 does not fit into a v5p's VMEM.
  """
  most = max(BLOCKS[0] * LANES // width, LANES)
  return next(s for s in BLOCKS if s <= most and length % s == 0)


def visited(length: int, width: int = LANES) -> float:
  """The share of pairs of blocks that the causal mask does not hide."""
  number = length // block(length, width)
  return (number + 1) / (2 * number)


def _local(interpret, q_BLHK, k_BLGK, v_BLGV, segment_BL):
  _, length, heads, width = q_BLHK.shape
  mask = masks.MultiHeadMask([masks.CausalMask((length, length))] * heads)
  size = block(length, padded(width))
  kernel = kernels.make_splash_mha_single_device(
    mask,
    block_sizes=block_sizes(size),
    residual_checkpoint_name=NAME,
    interpret=interpret,
  )
  return run(kernel, q_BLHK, k_BLGK, v_BLGV, (segment_BL, segment_BL))


def padded(width: int) -> int:
  """The width of a head as the matrix units compute it: a multiple of 128."""
  return width + -width % LANES


def block_sizes(size: int) -> kernels.BlockSizes:
  """Blocks of `size` queries and keys, in both passes."""
  return kernels.BlockSizes(
    block_q=size,
    block_kv=size,
    block_q_dkv=size,
    block_kv_dkv=size,
    block_q_dq=size,
    block_kv_dq=size,
  )


def run(
  kernel: Any,
  q_BLHK: jax.Array,
  k_BSGK: jax.Array,
  v_BSGV: jax.Array,
  segments: tuple[jax.Array, jax.Array],
) -> jax.Array:
  """A kernel's output [B, L, H, V] for each of the rows of one device.

  Args:
    kernel: from `make_splash_mha`.
    q_BLHK: queries.
    k_BSGK: keys.
    v_BSGV: values.
    segments: int32, segment_BL of the queries and segment_BS of the keys.
  """

  def row(q_LHK, k_SGK, v_SGV, segment_L, segment_S):
    heads_first = (x.swapaxes(0, 1) for x in (q_LHK, k_SGK, v_SGV))
    ids = kernels.SegmentIds(segment_L, segment_S)
    return _gradient_first(kernel(*heads_first, segment_ids=ids)).swapaxes(0, 1)

  scaled_BLHK = (q_BLHK * q_BLHK.shape[3] ** -0.5).astype(q_BLHK.dtype)
  return jax.vmap(row)(scaled_BLHK, k_BSGK, v_BSGV, *segments)


@jax.custom_vjp
def _gradient_first(x: jax.Array) -> jax.Array:
  """`x`, whose gradient is computed before anything that reads it.

  Otherwise XLA makes one fusion of the product that yields the output's
  gradient and of its sum with the output, which the compiler estimates at three
  times the time of both.
  """
  return x


_gradient_first.defvjp(
  lambda x: (x, None),
  lambda _, dx: (jax.lax.optimization_barrier(dx),),
)
