"""A function of a batch, computed one chunk of the rows after the other.

  out_BN = map_chunks(run, x_BN, 4, mesh)    run(x_BN), in a quarter of its room

Example, 2 devices with 4 rows each, 2 chunks:

  rows      0 1 2 3 | 4 5 6 7
  chunk 0   0 1     | 4 5         every device keeps its rows: its share of the
  chunk 1       2 3 |     6 7     batch is consecutive
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
  """`run` of each chunk of the rows; the backward pass recomputes it.

  Args:
    run: a function of rows [B, ...], each row by itself.
    x_BN: the rows, split over the mesh's batch axes.
    chunks: number of chunks; lowered to one that divides the rows of a device.
    mesh: the devices.
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
  """Raises InputError unless the rows of a device divide into these chunks.

  Args:
    chunks: number of chunks.
    rows: of all devices; they divide over the mesh.
    mesh: the devices.
    where: the config key that asks for the chunks.
  """
  own = rows // meshes.batch_size(mesh)
  if own % chunks == 0:
    return
  fitting = [n for n in range(1, own + 1) if own % n == 0]
  near = [max(n for n in fitting if n < chunks)]
  near += [n for n in fitting if n > chunks][:1]
  raise errors.InputError(
    f'{where}={chunks} does not divide the {own} rows that a device has of a '
    f'micro-batch; use {" or ".join(map(str, near))}'
  )


def scan_chunks(
  run: Callable[[Any, Any], tuple[Any, Any]],
  tree: Any,
  chunks: int,
  grad_accumulator: Any = None,
) -> Any:
  """Outputs of `run` for each chunk of the rows of one device, stacked.

  Chunks are consecutive rows, and must divide the rows of every array; the
  backward pass recomputes each.

  Args:
    run: `out, grad_accumulator = run(chunk, grad_accumulator)`.
    tree: the rows.
    chunks: number of chunks.
    grad_accumulator: arrays that every chunk hands on unchanged to the next.
      Their gradient is the sum over the chunks, to which each adds its own.
  """
  split = lambda x: x.reshape(chunks, x.shape[0] // chunks, *x.shape[1:])

  def body(grad_accumulator: Any, chunk: Any) -> tuple[Any, Any]:
    out, grad_accumulator = jax.checkpoint(run)(chunk, grad_accumulator)
    return grad_accumulator, out

  return jax.lax.scan(body, grad_accumulator, jax.tree.map(split, tree))[1]
