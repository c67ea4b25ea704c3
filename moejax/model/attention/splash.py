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
from typing import Any, ClassVar

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as kernels,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as masks,
)
from jax.sharding import Mesh, PartitionSpec

from moejax.core import errors
from moejax.model.attention import narrow_values
from moejax.parallel import inside
from moejax.parallel import mesh as meshes

PLATFORM = 'tpu'
LANES = 128
BLOCKS = (1024, 512, 256, LANES)
# The name of the outputs for policies of `remat`.
NAME = 'attention'


@dataclasses.dataclass(frozen=True)
class Splash:
  """Causal attention within segments; values may be narrower than keys.

  Attributes:
    mesh: the devices; None for one.
    otherwise: attention for what the kernel cannot compute: lengths that are no
      multiple of 128, rows or heads that do not divide over the mesh, and other
      platforms. None raises an InputError for these.
    interpret: whether to interpret the kernel, on any platform; for tests.
  """

  mesh: Mesh | None = None
  otherwise: Callable | None = None
  interpret: bool = False

  takes_narrow_values: ClassVar[bool] = True

  def __call__(
    self,
    q_BLHK: jax.Array,
    k_BLGK: jax.Array,
    v_BLGV: jax.Array,
    segment_BL: jax.Array,
  ) -> jax.Array:
    why = self._refuses(q_BLHK.shape, k_BLGK.shape[2])
    if why and self.otherwise is not None:
      return narrow_values.attend(
        self.otherwise, q_BLHK, k_BLGK, v_BLGV, segment_BL
      )
    if why:
      raise errors.InputError(f'model.attention=splash {why}; use auto')
    local: Callable[..., Any] = functools.partial(_local, self.interpret)
    if self.mesh is not None and self.mesh.size > 1:
      rows = meshes.token_axes()
      heads = PartitionSpec(rows, None, 'model', None)
      local = inside.shard_map(
        local,
        self.mesh,
        in_specs=(heads, heads, heads, PartitionSpec(rows)),
        out_specs=heads,
        # The kernel does not say over which axes its output varies: all.
        check_vma=False,
      )
    return local(q_BLHK, k_BLGK, v_BLGV, segment_BL)

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
    platform = self.mesh.devices.flat[0].platform
    if platform != PLATFORM and not self.interpret:
      return f'needs TPUs, not {platform}'
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
