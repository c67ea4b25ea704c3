"""The attention core as Pallas kernels for GPUs: no score is written to memory.

  attend = Triton(mesh)
  out_BLHV = attend(q_BLHK, k_BLGK, v_BLGV, segment_BL)   as in `dot_product.py`

Keys and values are read as they are: H query heads share G key heads without a
copy, values may be narrower than keys, and rows have any length.

JAX has kernels of its own (`jax.experimental.pallas.ops.gpu.attention`). They
are deprecated in JAX 0.12, want as many key heads as query heads, values as
wide as keys, and lengths that blocks divide. XLA's attention of cuDNN writes a
mask for every pair of packed tokens and cannot be compiled without the library.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.model.attention import kernel_on_mesh
from moejax.model.attention import triton_kernels as kernels


@dataclasses.dataclass(frozen=True)
class Triton(kernel_on_mesh.KernelOnMesh):
  """Attention by the kernels, for heads of up to `triton_kernels.WIDEST`."""

  name: ClassVar[str] = 'triton'
  platform: ClassVar[str] = 'gpu'
  devices: ClassVar[str] = 'GPUs'

  def refuses(self, q: jax.Array, k: jax.Array, v: jax.Array) -> str:
    del q
    size = row_bytes(k, v)
    if size > kernels.WIDEST:
      return (
        f'needs a key and its value in {kernels.WIDEST} bytes a head, '
        f'not {size}'
      )
    return ''

  def local(
    self,
    q_BLHK: jax.Array,
    k_BLGK: jax.Array,
    v_BLGV: jax.Array,
    segment_BL: jax.Array,
  ) -> jax.Array:
    return _local(self.interpret, q_BLHK, k_BLGK, v_BLGV, segment_BL)


def row_bytes(k: jax.Array, v: jax.Array) -> int:
  """Bytes of a key and its value in the kernels, which pad them to 16 n."""
  return sum(
    (x.shape[3] + -x.shape[3] % kernels.SMALLEST) * x.dtype.itemsize
    for x in (k, v)
  )


def _local(interpret, q_BLHK, k_BLGK, v_BLGV, segment_BL):
  """The attention of one device's rows."""
  length, width = q_BLHK.shape[1], q_BLHK.shape[3]
  wide = row_bytes(k_BLGK, v_BLGV)
  sizes = kernels.sizes(length, wide, width**-0.5, interpret)
  more = -length % sizes.own

  def padded(x):
    fill = -x.shape[3] % kernels.SMALLEST
    if not more and not fill:
      return x
    return jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, fill)))

  # No token of the row sees those behind its end, whatever their segment.
  segment_BL = jnp.pad(segment_BL, ((0, 0), (0, more)))
  out_BLHV = _attend(
    sizes, padded(q_BLHK), padded(k_BLGK), padded(v_BLGV), segment_BL
  )
  return out_BLHV[:, :length, :, : v_BLGV.shape[3]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(sizes, q_BLHK, k_BLGK, v_BLGV, segment_BL):
  return kernels.forward(sizes, q_BLHK, k_BLGK, v_BLGV, segment_BL)[0]


def _attend_fwd(sizes, *arrays):
  out_BLHV, lse_BHL = kernels.forward(sizes, *arrays)
  return out_BLHV, (*arrays, out_BLHV, lse_BHL)


def _attend_bwd(sizes, kept, dout_BLHV):
  *arrays, out_BLHV, lse_BHL = kept
  # The softmax's own gradient needs, per query, sum over keys of prob * dprob,
  # which is the query's dout . out.
  product = dout_BLHV.astype(jnp.float32) * out_BLHV.astype(jnp.float32)
  delta_BHL = jnp.sum(product, axis=3).transpose(0, 2, 1)
  back = (*arrays, dout_BLHV, lse_BHL, delta_BHL)
  dq_BLHK = kernels.queries_gradient(sizes, *back)
  return dq_BLHK, *kernels.keys_gradient(sizes, *back), None


_attend.defvjp(_attend_fwd, _attend_bwd)
