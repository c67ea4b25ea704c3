"""Rows of a batch through a function part by part, on whatever mesh.

  out_BN = in_parts(run, x_BN, 4, mesh)      run(x_BN), in a quarter of its room

Example, 2 devices with 4 rows each, 2 parts:

  rows     0 1 2 3 | 4 5 6 7
  part 0   0 1     | 4 5          every device keeps its rows: its share of the
  part 1       2 3 |     6 7      batch is consecutive
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from moejax.core import errors
from moejax.parallel import mesh as meshes
from moejax.parallel import rules


def in_parts(
  run: Callable[[jax.Array], jax.Array],
  x_BN: jax.Array,
  parts: int,
  mesh: jax.sharding.Mesh,
) -> jax.Array:
  """`run` of each part of the rows; the backward pass computes it again.

  Args:
    run: a function of rows [B, ...], each for itself.
    x_BN: the rows, split over the mesh's batch axes.
    parts: how many, as far as they divide the rows of a device.
    mesh: the devices.
  """
  rows, shards = x_BN.shape[0], meshes.batch_size(mesh)
  parts = 1 if rows % shards else math.gcd(parts, rows // shards)
  if parts == 1:
    return run(x_BN)
  others = ('unsharded',) * (x_BN.ndim - 1)
  axes = ('unsharded', 'batch', *others)
  x_SPN = x_BN.reshape(shards, parts, -1, *x_BN.shape[1:])
  x_PBN = jnp.moveaxis(x_SPN, 1, 0).reshape(parts, -1, *x_BN.shape[1:])
  x_PBN = rules.constrain(x_PBN, axes, mesh)
  out_PBN = rules.constrain(jax.lax.map(jax.checkpoint(run), x_PBN), axes, mesh)
  out_PSN = out_PBN.reshape(parts, shards, -1, *out_PBN.shape[2:])
  out_BN = jnp.moveaxis(out_PSN, 0, 1).reshape(rows, *out_PBN.shape[2:])
  return rules.constrain(out_BN, ('batch', *others), mesh)


def check(parts: int, rows: int, mesh: jax.sharding.Mesh, where: str) -> None:
  """Raises InputError unless the rows of a device divide into so many parts.

  Args:
    parts: how many.
    rows: of all devices; they divide over the mesh.
    mesh: the devices.
    where: the key that says how many.
  """
  own = rows // meshes.batch_size(mesh)
  if own % parts == 0:
    return
  fitting = [n for n in range(1, own + 1) if own % n == 0]
  near = [max(n for n in fitting if n < parts)]
  near += [n for n in fitting if n > parts][:1]
  raise errors.InputError(
    f'{where}={parts} does not divide the {own} rows that a device has of a '
    f'micro-batch; use {" or ".join(map(str, near))}'
  )


def each_part(
  run: Callable[[Any, Any], tuple[Any, Any]],
  tree: Any,
  number: int,
  chain: Any = None,
) -> Any:
  """What `run` makes of each part of the rows of one device, stacked.

  The parts are consecutive, and must divide the rows of every array; the
  backward pass computes each again.

  Args:
    run: `out, chain = run(part, chain)`.
    tree: the rows.
    number: how many parts.
    chain: arrays that every part hands on to the next as they are. Their
      gradient is the sum over the parts, to which each part adds its own.
  """
  split = lambda x: x.reshape(number, x.shape[0] // number, *x.shape[1:])

  def body(chain: Any, part: Any) -> tuple[Any, Any]:
    out, chain = jax.checkpoint(run)(part, chain)
    return chain, out

  return jax.lax.scan(body, chain, jax.tree.map(split, tree))[1]
