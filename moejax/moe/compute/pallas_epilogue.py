"""A Pallas kernel for TPU: grouped matmuls with an elementwise epilogue.

Each kernel of `pallas_grouped_matmul` computes one product and writes it to
memory. A sum of two products, or an elementwise function of a product, is then
an operation of its own, which reads the products from memory. A kernel of this
module computes both at once, tile by tile:

  sums     sums of one or more products, in float32
  finish   the elementwise epilogue of these sums, while they are in fast memory

Example, dx = dgate w_gate^T + dup w_up^T:

  KernelBody(sums=(((0, 0), (1, 1)),), outs=(bfloat16,), finish=the sum itself,
             transpose=(True, True))
  Operands(xs=(dgate, dup), ws=(w_gate, w_up))

Rows of no expert are not written and hold arbitrary values. Rows are cut into
tiles, and a tile that holds rows of several experts is visited once for each of
them. The table of visits is megablox's (after MegaBlocks, arXiv 2211.15841).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas.ops.tpu.megablox.gmm import make_group_metadata

LANES = 128
NAME = 'grouped_swiglu'  # in compiled programs
# Bytes of fast memory (VMEM) that tiles may take; the compiler gives a kernel
# 16 MiB.
FAST_MEMORY = 12 * 2**20

Arrays = Sequence[jax.Array]


@dataclasses.dataclass(frozen=True)
class KernelBody:
  """What a kernel computes, for operands of any size.

  Attributes:
    sums: for each sum, its products, as (index in `Operands.xs`, index in
      `Operands.ws`).
    outs: types of the results [R, N].
    finish: (tiles of the sums, tiles of `Operands.beside`) -> a tile of each
      result, and with `partial` one more. Tiles of sums are float32 [rows,
      columns].
    transpose: for each of the weights, whether it is [E, N, K].
    partial: whether there is one more result, float32 [R, P]: partial sums over
      the columns of the last tile that `finish` returns. Their sum over P is
      the sum over all N columns.
    temporaries: number of float32 tiles that `finish` needs in fast memory.
  """

  sums: tuple[tuple[tuple[int, int], ...], ...]
  outs: tuple[Any, ...]
  finish: Callable[[Arrays, Arrays], Arrays]
  transpose: tuple[bool, ...]
  partial: bool = False
  temporaries: int = 0


@dataclasses.dataclass(frozen=True)
class Tiles:
  """How operands are cut into tiles: sizes of rows, depth and columns.

  Attributes:
    whole: R, K and N.
    each: the same of one tile.
  """

  whole: tuple[int, int, int]
  each: tuple[int, int, int]

  @property
  def number(self) -> tuple[int, int, int]:
    """Number of tiles in each direction."""
    rows, depth, columns = map(pl.cdiv, self.whole, self.each)
    return rows, depth, columns

  @property
  def lanes(self) -> int:
    """Number of partial sums that a row has in a tile."""
    return self.each[2] if self.each[2] % LANES else LANES


@flax.struct.dataclass
class Operands:
  """The operands of a kernel.

  Attributes:
    xs: rows, each [R, K].
    ws: weights, each [E, K, N], or [E, N, K].
    beside: further operands of `finish`: [R, N], or [R, 1] with one number for
      each row.
  """

  xs: tuple[jax.Array, ...]
  ws: tuple[jax.Array, ...]
  beside: tuple[jax.Array, ...] = ()


def run(
  body: KernelBody,
  operands: Operands,
  size_E: jax.Array,
  row_tile: int,
  interpret: Any = False,
) -> list[jax.Array]:
  """The results of a kernel.

  Args:
    body: what the kernel computes.
    operands: its operands.
    size_E: int32, rows of each expert; they fill rows from 0 on.
    row_tile: rows of a tile; divides R.
    interpret: True, or Pallas's parameters for interpreting; for tests.
  """
  tiles = choose_tiles(body, operands, row_tile)
  (R, K, N), (rows, deep, wide) = tiles.whole, tiles.each
  num_k, num_n = tiles.number[1:]
  table, visits = make_group_metadata(
    group_sizes=size_E,
    m=R,
    tm=rows,
    start_group=jnp.int32(0),
    num_nonzero_groups=size_E.shape[0],
    visit_empty_groups=False,
  )
  # The table: the first row of each group, the group of each visit, and its
  # tile of rows. `at` makes the function from grid indices to a block's index.
  at = lambda *axes: (
    lambda n, v, k, table: tuple(
      {'row': table[2][v], 'expert': table[1][v], 'k': k, 'n': n, 0: 0}[axis]
      for axis in axes
    )
  )
  x_spec = pl.BlockSpec((rows, deep), at('row', 'k'))
  y_spec = pl.BlockSpec((rows, wide), at('row', 'n'))
  row_spec = pl.BlockSpec((rows, 1), at('row', 0))
  w_specs = {
    False: pl.BlockSpec((None, deep, wide), at('expert', 'k', 'n')),
    True: pl.BlockSpec((None, wide, deep), at('expert', 'n', 'k')),
  }
  shapes = [jax.ShapeDtypeStruct((R, N), dtype) for dtype in body.outs]
  out_specs = [y_spec] * len(shapes)
  if body.partial:
    P = num_n * tiles.lanes
    shapes.append(jax.ShapeDtypeStruct((R, P), jnp.float32))
    out_specs.append(pl.BlockSpec((rows, tiles.lanes), at('row', 'n')))
  call = pl.pallas_call(
    functools.partial(_kernel, body, tiles, operands),
    out_shape=shapes,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=(num_n, visits, num_k),
      in_specs=[x_spec] * len(operands.xs)
      + [w_specs[transpose] for transpose in body.transpose]
      + [y_spec if z.shape[1] == N else row_spec for z in operands.beside],
      out_specs=out_specs,
      scratch_shapes=[pltpu.VMEM((rows, wide), jnp.float32)] * len(body.sums),
    ),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'arbitrary', 'arbitrary')
    ),
    cost_estimate=pl.CostEstimate(
      flops=2 * R * K * N * sum(map(len, body.sums)),
      bytes_accessed=bytes_moved(body, operands, tiles),
      transcendentals=0,
    ),
    interpret=interpret,
    name=NAME,
  )
  return call(table, *operands.xs, *operands.ws, *operands.beside)


def _kernel(body, tiles, operands, table, *refs):
  """The kernel itself: one visit of one tile."""
  cuts = (len(operands.xs), len(operands.ws), len(operands.beside))
  xs, ws, beside, rest = _cut(refs, cuts)
  sums, outs = rest[-len(body.sums) :], rest[: -len(body.sums)]
  n, visit, k = (pl.program_id(i) for i in range(3))

  @pl.when(k == 0)
  def _():
    for total in sums:
      total[...] = jnp.zeros_like(total)

  # The depth that is left from this tile on; the last tile may reach beyond it.
  end = tiles.whole[1] - k * tiles.each[1]
  even = tiles.whole[1] % tiles.each[1] == 0
  x, w = (
    [ref[...] if even else _before(end, ref[...], axis) for ref, axis in group]
    for group in (
      [(ref, 1) for ref in xs],
      zip(ws, map(int, body.transpose), strict=True),
    )
  )
  for total, products in zip(sums, body.sums, strict=True):
    for i, j in products:
      over = (((1,), (int(body.transpose[j]),)), ((), ()))
      total[...] += jax.lax.dot_general(
        x[i], w[j], over, preferred_element_type=jnp.float32
      )

  @pl.when(k == tiles.number[1] - 1)
  def _():
    results = list(
      body.finish([s[...] for s in sums], [ref[...] for ref in beside])
    )
    if body.partial:
      columns = tiles.whole[2] - n * tiles.each[2]
      results[-1] = _fold(_before(columns, results[-1], 1), tiles.lanes)
    offset_E, group_V, tile_V = table
    group, rows = group_V[visit], tiles.each[0]
    first = offset_E[group] - tile_V[visit] * rows
    last = offset_E[group + 1] - tile_V[visit] * rows
    for out, y in zip(outs, results, strict=True):
      row = jax.lax.broadcasted_iota(jnp.int32, y.shape, 0)
      # In float32: not all chips can choose between shorter numbers.
      old = out[...].astype(jnp.float32)
      own = (row >= first) & (row < last)
      out[...] = jnp.where(own, y.astype(jnp.float32), old).astype(out.dtype)


def _cut(refs, sizes):
  """The refs in groups of these sizes, and the rest."""
  pieces, start = [], 0
  for size in sizes:
    pieces.append(refs[start : start + size])
    start += size
  return *pieces, refs[start:]


def _before(end, x, axis):
  """`x` with zeros from index `end` on."""
  place = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
  return jnp.where(place < end, x.astype(jnp.float32), 0).astype(x.dtype)


def _fold(x_RN, lanes):
  """[R, N] to partial sums [R, lanes]."""
  pieces = jnp.split(x_RN, x_RN.shape[1] // lanes, axis=1)
  return functools.reduce(jnp.add, pieces)


def choose_tiles(body: KernelBody, operands: Operands, row_tile: int) -> Tiles:
  """The tiles that move the fewest bytes, of those that fit in fast memory."""
  R, K = operands.xs[0].shape
  N = operands.ws[0].shape[1 if body.transpose[0] else 2]
  candidates = [
    Tiles((R, K, N), (row_tile, deep, wide))
    for deep in _pieces(K)
    for wide in _pieces(N)
  ]
  # If no candidate fits, the smallest tiles.
  fitting = [
    t for t in candidates if bytes_held(body, operands, t) <= FAST_MEMORY
  ] or candidates[-1:]
  return min(fitting, key=lambda tiles: bytes_moved(body, operands, tiles))


def _pieces(size: int) -> list[int]:
  """Tile sizes that cut `size` into equal pieces, the largest first."""
  sizes = {size}
  for number in range(2, size // LANES + 1):
    sizes.add(pl.cdiv(pl.cdiv(size, number), LANES) * LANES)
  return sorted(sizes, reverse=True)


def bytes_held(body: KernelBody, operands: Operands, tiles: Tiles) -> int:
  """Bytes of fast memory that a kernel with these tiles needs.

  Tiles of operands and results are double-buffered, so they count twice.
  """
  rows, deep, wide = tiles.each
  moving = sum(rows * deep * x.dtype.itemsize for x in operands.xs)
  moving += sum(deep * wide * w.dtype.itemsize for w in operands.ws)
  for z in operands.beside:
    moving += rows * z.dtype.itemsize * (LANES if z.shape[1] == 1 else wide)
  moving += sum(rows * wide * jnp.dtype(dtype).itemsize for dtype in body.outs)
  moving += body.partial * rows * LANES * 4
  return 2 * moving + 4 * rows * wide * (len(body.sums) + body.temporaries)


def bytes_moved(body: KernelBody, operands: Operands, tiles: Tiles) -> int:
  """Upper bound of the bytes moved to and from memory.

  Rows are read for every tile of columns. Weights are read once for each expert
  if their depth is one tile, and at every visit otherwise.
  """
  R, K, N = tiles.whole
  num_m, num_k, num_n = tiles.number
  visits = num_m + operands.ws[0].shape[0] - 1
  reads = visits if num_k > 1 else min(visits, operands.ws[0].shape[0])
  total = sum(R * K * num_n * x.dtype.itemsize for x in operands.xs)
  # Tiles are whole lanes, so the last one may reach beyond the last column.
  deep, wide = num_k * tiles.each[1], num_n * tiles.each[2]
  total += sum(reads * deep * wide * w.dtype.itemsize for w in operands.ws)
  for z in operands.beside:
    total += R * z.dtype.itemsize * (num_n * LANES if z.shape[1] == 1 else N)
  total += sum(R * N * jnp.dtype(dtype).itemsize for dtype in body.outs)
  total += body.partial * R * num_n * tiles.lanes * 4
  return math.ceil(total)
