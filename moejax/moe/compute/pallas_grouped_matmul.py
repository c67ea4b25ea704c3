"""Grouped matmuls by Pallas kernels for accelerators: megablox and tokamax.

The contract is that of `grouped_matmuls`. A kernel computes two products:

  rows     y_RF[r] = x_RD[r] @ w_EDF[expert of r], or with w_EDF transposed
  weights  dw_EDF[e] = x_RD[rows of e].T @ dy_RF[rows of e]

and `multiply` combines them into a function with its own gradient. Rows of no
group, which kernels do not write, are set to zero. So is the weights' gradient
of an expert without rows, which kernels have computed wrongly in the past.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm, tgmm
from jax.sharding import PartitionSpec

from moejax.core import varying

# JAX's megablox counts the visits of each tile of rows by a histogram in
# float32, which is wrong from some 5,000 tiles on.
MOST_ROW_TILES = 4096
LANES = 128


class Kernel(Protocol):
  """The two products; `size_E` is int32 and fills rows from 0 on."""

  def rows(
    self, x_RD: jax.Array, w_EDF: jax.Array, size_E: jax.Array, transpose: bool
  ) -> jax.Array:
    """y_RF in the dtype of `x_RD`; `transpose`: the weights are [E, F, D]."""
    ...

  def weights(
    self, x_RD: jax.Array, dy_RF: jax.Array, size_E: jax.Array, dtype: Any
  ) -> jax.Array:
    """dw_EDF in `dtype`, summed in float32."""
    ...


@dataclasses.dataclass(frozen=True)
class Megablox:
  """The kernels of `jax.experimental.pallas.ops.tpu.megablox`: for TPU.

  After MegaBlocks (arXiv 2211.15841). Rows are cut into tiles, and a tile that
  holds rows of several experts is visited once for each. So no group needs
  padding, and a boundary costs one tile's work.

  Attributes:
    tiling: the largest sizes of a tile: rows, the dimension that is summed
      over, columns.
    interpret: True, or Pallas's parameters for interpreting, runs the kernels
      step by step on any platform; for tests.
  """

  tiling: tuple[int, int, int] = (512, 1024, 1024)
  interpret: Any = False
  row_multiple: int = 1

  def __call__(self, x_RD, w_EDF, size_E):
    return multiply(self, *varying.together(x_RD, w_EDF, size_E))

  def rows(self, x_RD, w_EDF, size_E, transpose):
    width = w_EDF.shape[1 if transpose else 2]
    tiling = self._tiling(x_RD, width, size_E, x_RD.dtype)
    product = functools.partial(
      gmm,
      preferred_element_type=x_RD.dtype,
      tiling=tiling,
      transpose_rhs=transpose,
      interpret=self.interpret,
    )
    x_PD = padded(x_RD, tiling[0])
    y_PF = unchecked(product, x_PD, w_EDF.astype(x_RD.dtype), size_E)
    return y_PF[: x_RD.shape[0]]

  def weights(self, x_RD, dy_RF, size_E, dtype, onto=None):
    """As in `Kernel`; added to `onto`, which is [E, D, F] in `dtype`."""
    tiling = self._tiling(x_RD, dy_RF.shape[1], size_E, dtype)
    x_PD, dy_PF = (padded(z, tiling[0]) for z in (x_RD, dy_RF))

    def product(x_DP, dy_PF, size_E, *onto):
      return tgmm(
        x_DP,
        dy_PF,
        size_E,
        preferred_element_type=dtype,
        tiling=tiling,
        existing_out=onto[0] if onto else None,
        interpret=self.interpret,
      )

    more = () if onto is None else (onto,)
    return unchecked(product, x_PD.T, dy_PF, size_E, *more)

  def row_tile(self, num_rows: int, num_experts: int) -> int:
    """Rows of a tile.

    The boundaries of E experts cost at most E tiles, a quarter of the work
    where R is large enough for that.
    """
    most = self.tiling[0]
    rows = min(most, LANES)
    while rows < most and 8 * rows * num_experts <= num_rows:
      rows *= 2
    while num_rows > MOST_ROW_TILES * rows:
      rows *= 2
    return min(rows, _round_up(num_rows, 16))

  def _tiling(self, x_RD, width, size_E, dtype) -> tuple[int, int, int]:
    """Tiles for a product of these shapes, its result in `dtype`.

    Rows are those of `row_tile`; the other dimensions are cut into equal pieces
    of whole lanes. A TPU's fast memory has room for the largest tiles in
    bfloat16; wider numbers or more rows mean smaller tiles.
    """
    num_rows, depth = x_RD.shape
    most_rows, most_depth, most_width = self.tiling
    rows = self.row_tile(num_rows, size_E.shape[0])
    shrink = max(x_RD.dtype.itemsize, jnp.dtype(dtype).itemsize) // 2
    shrink *= max(1, rows // most_rows)
    return (
      rows,
      _even(depth, max(most_depth // shrink, LANES)),
      _even(width, max(most_width // shrink, LANES)),
    )


@dataclasses.dataclass(frozen=True)
class Tokamax:
  """`tokamax.ragged_dot_general`: for TPU and GPU.

  Tokamax chooses a kernel for the machine, and falls back to XLA where it has
  none: on CPU, and on TPU for a width under 128, or for a number of rows that
  is no multiple of 128, which is why rows are padded here. It looks at the
  machine that it runs on, so its kernels cannot be compiled ahead of time for a
  TPU elsewhere (version 0.0.12: implementation None gives XLA's ragged dot,
  `mosaic` gives the error "Not supported on cpu").

  Attributes:
    implementation: one of tokamax's names; None lets it choose.
  """

  implementation: str | None = None
  row_multiple: int = 1

  def __call__(self, x_RD, w_EDF, size_E):
    return multiply(self, *varying.together(x_RD, w_EDF, size_E))

  def rows(self, x_RD, w_EDF, size_E, transpose):
    over = 2 if transpose else 1
    dims = jax.lax.RaggedDotDimensionNumbers(
      dot_dimension_numbers=(([1], [over]), ([], [])),
      lhs_ragged_dimensions=[0],
      rhs_group_dimensions=[0],
    )
    product, x_PD = self._product(dims, x_RD.dtype), padded(x_RD, LANES)
    y_PF = unchecked(product, x_PD, w_EDF.astype(x_RD.dtype), size_E)
    return y_PF[: x_RD.shape[0]]

  def weights(self, x_RD, dy_RF, size_E, dtype):
    dims = jax.lax.RaggedDotDimensionNumbers(
      dot_dimension_numbers=(([0], [0]), ([], [])),
      lhs_ragged_dimensions=[0],
      rhs_group_dimensions=[],
    )
    x_PD, dy_PF = (padded(z, LANES) for z in (x_RD, dy_RF))
    dw_EDF = unchecked(self._product(dims, dtype), x_PD, dy_PF, size_E)
    # tokamax's kernels have left the gradient of an expert without rows unset
    # (tokamax issue 887).
    return jnp.where(size_E[:, None, None] > 0, dw_EDF, 0)

  def _product(self, dims, dtype) -> Callable[..., jax.Array]:
    import tokamax  # Optional; importing it takes a second.

    return lambda a, b, size_E: tokamax.ragged_dot_general(
      a,
      b,
      size_E,
      dims,
      preferred_element_type=dtype,
      implementation=self.implementation,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def multiply(kernel, x_RD, w_EDF, size_E):
  """A grouped matmul and its gradients by the two products of a kernel.

  Args:
    kernel: a `Kernel`.
    x_RD: rows grouped by expert.
    w_EDF: weights of each expert.
    size_E: number of rows of each expert.

  Returns:
    y_RF.
  """
  y_RF = kernel.rows(x_RD, w_EDF, size_E.astype(jnp.int32), transpose=False)
  return _used(y_RF, size_E)


def _multiply_fwd(kernel, x_RD, w_EDF, size_E):
  return multiply(kernel, x_RD, w_EDF, size_E), (x_RD, w_EDF, size_E)


def _multiply_bwd(kernel, kept, dy_RF):
  x_RD, w_EDF, size_E = kept
  size_E = size_E.astype(jnp.int32)
  dx_RD = kernel.rows(dy_RF, w_EDF, size_E, transpose=True)
  dw_EDF = kernel.weights(x_RD, dy_RF, size_E, w_EDF.dtype)
  return _used(dx_RD, size_E), dw_EDF, None


multiply.defvjp(_multiply_fwd, _multiply_bwd)


def _used(y_RF: jax.Array, size_E: jax.Array) -> jax.Array:
  """y_RF with zeros in rows of no group, which may hold anything, even NaN."""
  used_R1 = jnp.arange(y_RF.shape[0])[:, None] < jnp.sum(size_E)
  return jnp.where(used_R1, y_RF, 0)


def unchecked(product: Callable[..., Any], *xs: jax.Array) -> Any:
  """`product(*xs)`, without shard_map's check of varying axes.

  The kernels do not state over which mesh axes their outputs vary, so
  `jax.shard_map` refuses them. A second shard_map around the kernel alone, over
  axes that are manual already, moves nothing and can turn the check off.
  """
  axes = jax.sharding.get_abstract_mesh().manual_axes
  if not axes:
    return product(*xs)
  replicated = PartitionSpec()
  y = jax.shard_map(
    product,
    in_specs=replicated,
    out_specs=replicated,
    axis_names=set(axes),
    check_vma=False,
  )(*xs)
  return jax.tree.map(lambda y: varying.like(y, *xs), y)


def padded(x_RD: jax.Array, multiple: int) -> jax.Array:
  """x_RD with rows of zeros behind, up to a multiple of `multiple` rows."""
  more = -x_RD.shape[0] % multiple
  return jnp.pad(x_RD, ((0, more), (0, 0))) if more else x_RD


def _even(dim: int, most: int) -> int:
  """Size of equal pieces of `dim`, at most `most`; whole lanes if several."""
  pieces = -(-dim // most)
  return dim if pieces == 1 else _round_up(-(-dim // pieces), LANES)


def _round_up(number: int, multiple: int) -> int:
  return -(-number // multiple) * multiple
