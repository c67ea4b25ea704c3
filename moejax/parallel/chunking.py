"""Functions of a batch, computed chunk by chunk to take less memory.

  out_BN = map_chunks(run, x_BN, 4, mesh)    run(x_BN), in a quarter of the
                                             memory for its intermediates

Example, 2 devices with 4 rows each, 2 chunks:

  rows      0 1 2 3 | 4 5 6 7
  chunk 0   0 1     | 4 5         No row changes its device, because the rows
  chunk 1       2 3 |     6 7     of a device are consecutive in the batch.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from moejax.core import errors
from moejax.parallel import mesh as meshes
from moejax.parallel import rules


def map_chunks(
  run: Callable[[jax.Array], jax.Array],
  x_BN: jax.Array,
  chunks: int,
  mesh: jax.sharding.Mesh,
) -> jax.Array:
  """Applies `run` to each chunk of the rows; the backward pass recomputes it.

  Args:
    run: a function of rows [B, ...] that treats every row by itself.
    x_BN: the rows [B, ...], split over the mesh's batch axes.
    chunks: number of chunks, replaced by its greatest common divisor with the
      number of rows of a device; 1 if rows do not divide over the devices.
    mesh: the devices.

  Returns:
    run(x_BN), [B, ...].
  """
  rows, shards = x_BN.shape[0], meshes.batch_size(mesh)
  chunks = 1 if rows % shards else math.gcd(chunks, rows // shards)
  if chunks == 1:
    return run(x_BN)
  others = ('unsharded',) * (x_BN.ndim - 1)
  axes = ('unsharded', 'batch', *others)
  x_SCN = x_BN.reshape(shards, chunks, -1, *x_BN.shape[1:])
  x_CBN = jnp.moveaxis(x_SCN, 1, 0).reshape(chunks, -1, *x_BN.shape[1:])
  x_CBN = rules.constrain(x_CBN, axes, mesh)
  out_CBN = rules.constrain(jax.lax.map(jax.checkpoint(run), x_CBN), axes, mesh)
  out_CSN = out_CBN.reshape(chunks, shards, -1, *out_CBN.shape[2:])
  out_BN = jnp.moveaxis(out_CSN, 0, 1).reshape(rows, *out_CBN.shape[2:])
  return rules.constrain(out_BN, ('batch', *others), mesh)


def check(chunks: int, rows: int, mesh: jax.sharding.Mesh, where: str) -> None:
  """Raises InputError unless the rows of a device divide into the chunks.

  Args:
    chunks: number of chunks.
    rows: number of rows of all devices; it divides over the mesh.
    mesh: the devices.
    where: the config key that asks for the chunks.
  """
  rows_of_device = rows // meshes.row_shards(mesh)
  if rows_of_device % chunks == 0:
    return
  counts = range(1, rows_of_device + 1)
  fitting = [n for n in counts if rows_of_device % n == 0]
  near = [max(n for n in fitting if n < chunks)]
  near += [n for n in fitting if n > chunks][:1]
  raise errors.InputError(
    f'{where}={chunks} does not divide the {rows_of_device} rows that a device '
    f'has of a micro-batch; use {" or ".join(map(str, near))}'
  )


def scan_chunks(
  run: Callable[[Any, Any], tuple[Any, Any]],
  tree: Any,
  chunks: int,
  grad_accumulator: Any = None,
) -> Any:
  """Applies `run` to each chunk of the rows of one device, inside `shard_map`.

  A chunk is a number of consecutive rows. The backward pass recomputes it.

  Args:
    run: `out, grad_accumulator = run(chunk, grad_accumulator)`.
    tree: arrays [rows, ...].
    chunks: number of chunks; it must divide the rows of every array.
    grad_accumulator: arrays that every chunk passes unchanged to the next.
      Their gradient is the sum over the chunks: in the backward pass each chunk
      adds its own gradient to that of the chunks behind it.

  Returns:
    The outputs of all chunks, stacked: [chunks, ...].
  """
  split = lambda x: x.reshape(chunks, x.shape[0] // chunks, *x.shape[1:])

  def body(grad_accumulator: Any, chunk: Any) -> tuple[Any, Any]:
    out, grad_accumulator = jax.checkpoint(run)(chunk, grad_accumulator)
    return grad_accumulator, out

  return jax.lax.scan(body, grad_accumulator, jax.tree.map(split, tree))[1]
