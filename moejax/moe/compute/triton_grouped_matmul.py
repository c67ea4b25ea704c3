"""Grouped matmuls by Pallas kernels for NVIDIA GPUs, which Triton compiles.

XLA's own `ragged_dot` multiplies every row with every expert on these GPUs. The
kernels here visit each tile of rows once for each expert that has rows in it:

  size_E = [3, 6], tiles of 4 rows      rows 0 1 2 | 3 4 5 6 | 7 8
                                        expert  0  |    1    |  1

A tile begins where its expert's rows begin, so groups need no padding. E
experts cost at most E tiles more than one expert with all rows.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from moejax.core import varying
from moejax.moe.compute import pallas_grouped_matmul as pallas

# Names of the two kernels, by which a program's text is read.
ROWS, WEIGHTS = 'moejax_triton_rows', 'moejax_triton_weights'
# Tensor cores multiply at least 16 by 16 by 16.
SMALLEST = 16
# Settings of JAX for products of float32 by which XLA rounds factors to TF32.
COARSE = (None, 'default', 'fastest', 'tensorfloat32', 'TF32_TF32_F32')


@dataclasses.dataclass(frozen=True)
class Triton:
  """Two kernels: rows times their expert's weights, and the weights' gradient.

  Products are those of `pallas_grouped_matmul.Kernel`, with sums in float32.
  Factors in float32 are rounded to TF32 where XLA rounds those of its own
  products: unless `jax_default_matmul_precision` asks for more.

  Attributes:
    tiling: the largest sizes of a tile: rows, the dimension that is summed
      over, columns; powers of 2.
    num_warps: warps of 32 threads for one tile of the result.
    num_stages: how many tiles Triton loads ahead.
    interpret: runs the kernels step by step on any platform; for tests.
  """

  tiling: tuple[int, int, int] = (128, 64, 128)
  num_warps: int = 8
  num_stages: int = 3
  interpret: bool = False
  row_multiple: int = 1

  def __call__(self, x_RD, w_EDF, size_E):
    return pallas.multiply(self, *varying.together(x_RD, w_EDF, size_E))

  def rows(self, x_RD, w_EDF, size_E, transpose):
    num_rows, width = x_RD.shape[0], w_EDF.shape[1 if transpose else 2]
    tile_R, tile_D, tile_F = self._tiles(x_RD, width)
    x_PD = _padded(x_RD, (tile_R, tile_D), at_least=True)
    sides = (1, tile_F, tile_D) if transpose else (1, tile_D, tile_F)
    w_EDF = _padded(w_EDF.astype(x_RD.dtype), sides)
    columns = w_EDF.shape[1 if transpose else 2]
    num_tiles = x_PD.shape[0] // tile_R + size_E.shape[0]

    def product(x_PD, w_EDF, size_E):
      return pl.pallas_call(
        functools.partial(_rows_kernel, (tile_R, tile_D, tile_F), transpose),
        grid=(columns // tile_F, num_tiles),
        out_shape=jax.ShapeDtypeStruct((x_PD.shape[0], columns), x_PD.dtype),
        **self._options(ROWS),
      )(*tile_table(size_E, tile_R, num_tiles), x_PD, w_EDF)

    return pallas.unchecked(product, x_PD, w_EDF, size_E)[:num_rows, :width]

  def weights(self, x_RD, dy_RF, size_E, dtype):
    depth, width = x_RD.shape[1], dy_RF.shape[1]
    # Here rows are summed over, and depth is a side of the result.
    tile_D, tile_R, tile_F = self._tiles(x_RD.T, width)
    x_PD = _padded(x_RD, (tile_R, tile_D), at_least=True)
    dy_PF = _padded(dy_RF, (tile_R, tile_F), at_least=True)
    shape_EDF = (size_E.shape[0], x_PD.shape[1], dy_PF.shape[1])

    def product(x_PD, dy_PF, size_E):
      end_E = jnp.cumsum(size_E)
      return pl.pallas_call(
        functools.partial(_weights_kernel, (tile_R, tile_D, tile_F)),
        grid=(
          shape_EDF[2] // tile_F,
          shape_EDF[1] // tile_D,
          shape_EDF[0],
        ),
        out_shape=jax.ShapeDtypeStruct(shape_EDF, dtype),
        **self._options(WEIGHTS),
      )(end_E - size_E, end_E, x_PD, dy_PF)

    dw_EDF = pallas.unchecked(product, x_PD, dy_PF, size_E)
    return dw_EDF[:, :depth, :width]

  def _tiles(self, x_RD: jax.Array, width: int) -> tuple[int, int, int]:
    """Sizes of tiles: powers of 2, no larger than a dimension needs."""
    dims = (*x_RD.shape, width)
    sizes = (
      min(most, max(SMALLEST, pl.next_power_of_2(dim)))
      for most, dim in zip(self.tiling, dims, strict=True)
    )
    rows, depth, columns = sizes
    return rows, depth, columns

  def _options(self, name: str) -> dict[str, Any]:
    return {
      'name': name,
      'interpret': self.interpret,
      'compiler_params': plgpu.CompilerParams(
        num_warps=self.num_warps, num_stages=self.num_stages
      ),
    }


def tile_table(
  size_E: jax.Array, tile: int, num_tiles: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """For each tile its expert, its first row, and the end of its expert's rows.

  Example, tiles of 4 rows, sizes [3, 0, 6], 5 tiles:
    expert 0 2 2 2 2, first row 0 3 7 9 9, end 3 9 9 9 9
  Tiles that are not needed have no rows: their first row is the end.
  """
  tiles_E = -(-size_E // tile)
  last_E = jnp.cumsum(tiles_E)
  index_N = jnp.arange(num_tiles)
  expert_N = jnp.searchsorted(last_E, index_N, side='right')
  expert_N = jnp.minimum(expert_N, size_E.shape[0] - 1).astype(jnp.int32)
  end_N = jnp.cumsum(size_E)[expert_N]
  nth_N = index_N - (last_E - tiles_E)[expert_N]
  begin_N = end_N - size_E[expert_N] + nth_N * tile
  return expert_N, jnp.minimum(begin_N, end_N).astype(jnp.int32), end_N


def _rows_kernel(tiles, transpose, *refs):
  """One tile of y_RF: the sum over depth of tiles of x_RD and of w_EDF."""
  expert_N, begin_N, end_N, x_RD, w_EDF, y_RF = refs
  tile_R, tile_D, tile_F = tiles
  tile, column = pl.program_id(1), pl.program_id(0) * tile_F
  expert, begin, end = expert_N[tile], begin_N[tile], end_N[tile]
  # A tile that would reach beyond the array begins earlier; the mask keeps the
  # rows that belong to it.
  first = jnp.minimum(begin, x_RD.shape[0] - tile_R)

  def add(step, y_BF):
    depth = pl.ds(step * tile_D, tile_D)
    x_BD = plgpu.load(x_RD.at[pl.ds(first, tile_R), depth])
    if transpose:
      w_FD = plgpu.load(w_EDF.at[expert, pl.ds(column, tile_F), depth])
      return y_BF + plgpu.dot(x_BD, w_FD, trans_b=True, allow_tf32=rounds())
    w_DF = plgpu.load(w_EDF.at[expert, depth, pl.ds(column, tile_F)])
    return y_BF + plgpu.dot(x_BD, w_DF, allow_tf32=rounds())

  steps = jnp.where(begin < end, jnp.int32(x_RD.shape[1] // tile_D), 0)
  y_BF = jax.lax.fori_loop(
    jnp.int32(0), steps, add, jnp.zeros((tile_R, tile_F), jnp.float32)
  )
  row_B = first + jnp.arange(tile_R)
  own_B1 = ((row_B >= begin) & (row_B < end))[:, None]
  plgpu.store(
    y_RF.at[pl.ds(first, tile_R), pl.ds(column, tile_F)],
    y_BF.astype(y_RF.dtype),
    mask=jnp.broadcast_to(own_B1, y_BF.shape),
  )


def _weights_kernel(tiles, begin_E, end_E, x_RD, dy_RF, dw_EDF):
  """One tile of dw_EDF: the sum over the rows of its expert."""
  tile_R, tile_D, tile_F = tiles
  column, depth = pl.program_id(0) * tile_F, pl.program_id(1) * tile_D
  expert = pl.program_id(2)
  begin, end = begin_E[expert], end_E[expert]

  def add(step, dw_DF):
    start = begin + step * tile_R
    first = jnp.minimum(start, x_RD.shape[0] - tile_R)
    row_B = first + jnp.arange(tile_R)
    own_B1 = ((row_B >= start) & (row_B < end))[:, None]
    read = lambda rows, column, width: plgpu.load(
      rows.at[pl.ds(first, tile_R), pl.ds(column, width)],
      mask=jnp.broadcast_to(own_B1, (tile_R, width)),
      other=0.0,
    )
    x_BD, dy_BF = read(x_RD, depth, tile_D), read(dy_RF, column, tile_F)
    return dw_DF + plgpu.dot(x_BD, dy_BF, trans_a=True, allow_tf32=rounds())

  dw_DF = jax.lax.fori_loop(
    jnp.int32(0),
    pl.cdiv(end - begin, tile_R),
    add,
    jnp.zeros((tile_D, tile_F), jnp.float32),
  )
  plgpu.store(
    dw_EDF.at[expert, pl.ds(depth, tile_D), pl.ds(column, tile_F)],
    dw_DF.astype(dw_EDF.dtype),
  )


def rounds() -> bool:
  """Whether factors in float32 may be rounded to TF32."""
  settings = jax.config.values  # typed nowhere
  return settings['jax_default_matmul_precision'] in COARSE


def _padded(
  x: jax.Array, multiples: tuple[int, ...], at_least: bool = False
) -> jax.Array:
  """An array with zeros behind each dimension, up to a multiple of its tile.

  Args:
    x: the array.
    multiples: sizes of tiles.
    at_least: whether the first dimension needs one whole tile only.
  """
  more = [-size % tile for size, tile in zip(x.shape, multiples, strict=True)]
  if at_least:
    more[0] = max(0, multiples[0] - x.shape[0])
  return jnp.pad(x, [(0, n) for n in more]) if any(more) else x
