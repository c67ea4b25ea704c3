"""The attention core as a Pallas kernel for TPU: no score is written to HBM.

`jax.experimental.pallas.ops.tpu.splash_attention`, after FlashAttention (arXiv
2205.14135), computes blocks of queries against blocks of keys with an online
softmax, and skips blocks that the causal mask hides. The other implementations
write all L x L scores of a head to memory.

  attend = Splash(mesh)
  out_BLHK = attend(q_BLHK, k_BLGK, v_BLGK, segment_BL)   as in `dot_product.py`

XLA cannot split a kernel over devices, so it runs in a `shard_map`: rows over
the batch axes, heads over `model`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as kernels,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as masks,
)
from jax.sharding import Mesh, PartitionSpec

from moejax.core import errors
from moejax.parallel import mesh as meshes

LANES = 128
BLOCKS = (1024, 512, 256, LANES)
# The name of the outputs for policies of `remat`.
NAME = 'attention'


@dataclasses.dataclass(frozen=True)
class Splash:
  """Causal attention within segments. Head widths are padded to 128 n.

  Attributes:
    mesh: the devices; None for one.
    otherwise: attention for shapes that the kernel cannot compute: lengths that
      are no multiple of 128, and rows or heads that do not divide over the
      mesh. None raises an InputError for these.
    interpret: whether to interpret the kernel, on any platform; for tests.
  """

  mesh: Mesh | None = None
  otherwise: Callable | None = None
  interpret: bool = False

  def __call__(
    self,
    q_BLHK: jax.Array,
    k_BLGK: jax.Array,
    v_BLGK: jax.Array,
    segment_BL: jax.Array,
  ) -> jax.Array:
    why = self._refuses(q_BLHK.shape, k_BLGK.shape[2])
    if why and self.otherwise is not None:
      return self.otherwise(q_BLHK, k_BLGK, v_BLGK, segment_BL)
    if why:
      raise errors.InputError(f'model.attention=splash {why}; use auto')
    local = functools.partial(_local, self.interpret)
    if self.mesh is not None and self.mesh.size > 1:
      heads = PartitionSpec(meshes.BATCH_AXES, None, 'model', None)
      local = jax.shard_map(
        local,
        mesh=self.mesh,
        in_specs=(heads, heads, heads, PartitionSpec(meshes.BATCH_AXES)),
        out_specs=heads,
        # The kernel does not say over which axes its output varies: all.
        check_vma=False,
      )
    return local(q_BLHK, k_BLGK, v_BLGK, segment_BL)

  def _refuses(self, shape: tuple[int, ...], groups: int) -> str:
    """Why the kernel cannot do these shapes, or '' if it can."""
    rows, length = shape[:2]
    if length % LANES:
      return f'needs sequences of a multiple of {LANES} tokens, not {length}'
    if self.mesh is None:
      return ''
    parts, split = meshes.batch_size(self.mesh), self.mesh.shape['model']
    if rows % parts or groups % split:
      return (
        f'needs rows over {parts} devices and key heads over {split}, '
        f'not {rows} and {groups}'
      )
    return ''


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


def _local(interpret, q_BLHK, k_BLGK, v_BLGK, segment_BL):
  _, length, heads, width = q_BLHK.shape
  mask = masks.MultiHeadMask([masks.CausalMask((length, length))] * heads)
  size = block(length, padded(width))
  kernel = kernels.make_splash_mha_single_device(
    mask,
    block_sizes=block_sizes(size),
    residual_checkpoint_name=NAME,
    interpret=interpret,
  )
  return run(kernel, q_BLHK, k_BLGK, v_BLGK, (segment_BL, segment_BL))


def padded(width: int) -> int:
  """The width of a head as the kernel computes it: a multiple of 128."""
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
  v_BSGK: jax.Array,
  segments: tuple[jax.Array, jax.Array],
) -> jax.Array:
  """A kernel's output [B, L, H, K] for each of the rows of one device.

  Args:
    kernel: from `make_splash_mha`.
    q_BLHK: queries.
    k_BSGK: keys.
    v_BSGK: values.
    segments: int32, segment_BL of the queries and segment_BS of the keys.
  """
  width = q_BLHK.shape[3]
  fill = padded(width) - width

  def row(q_LHK, k_SGK, v_SGK, segment_L, segment_S):
    heads_first = (x.swapaxes(0, 1) for x in (q_LHK, k_SGK, v_SGK))
    ids = kernels.SegmentIds(segment_L, segment_S)
    return kernel(*heads_first, segment_ids=ids).swapaxes(0, 1)

  scaled_BLHK = (q_BLHK * width**-0.5).astype(q_BLHK.dtype)
  q, k, v = (
    jnp.pad(x, ((0, 0),) * 3 + ((0, fill),))
    for x in (scaled_BLHK, k_BSGK, v_BSGK)
  )
  return jax.vmap(row)(q, k, v, *segments)[..., :width]
