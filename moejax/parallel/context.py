"""Rows whose length is split over the `context` axis of the mesh.

  pieces = split(x_BL, mesh, 'balanced')     [B, L, ...] -> [P, S, ...]
  x_BL = join(pieces, mesh, 'balanced')      and back

A row of L tokens is cut into chunks. Each of the N devices along `context`
holds one piece of the row, S = L / N tokens: one chunk, or two. The pieces of
all rows, P = B * N of them, are split over `meshes.BATCH_AXES`. So whatever
treats tokens by themselves, such as a feed-forward, sees pieces as rows.

Example, a row of 8 tokens, N = 2:

  contiguous   0 1 2 3 | 4 5 6 7
  balanced     0 1 6 7 | 2 3 4 5

In causal attention a token sees the tokens before it. With contiguous pieces
the last device has most of the work; with two chunks, one from each end, all
devices have the same. The balanced order is that of Llama 3 (arXiv 2407.21783,
section 3.3.2), whose 2 N chunks are dealt as i and 2 N - 1 - i.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from moejax.core import errors, table
from moejax.parallel import mesh as meshes

AXIS = 'context'


def _contiguous(devices: int) -> np.ndarray:
  return np.arange(devices)[:, None]


def _balanced(devices: int) -> np.ndarray:
  first_N = np.arange(devices)
  return np.stack([first_N, 2 * devices - 1 - first_N], axis=1)


# By name in a config: function (N devices) -> the numbers of the chunks that
# each device holds, in the order of its piece, int [N, chunks of a piece]. The
# chunks of a device must have different remainders when their numbers are
# divided by the number of chunks of a piece; and the first chunks of all
# devices must be consecutive, forwards or backwards, like the second ones.
ORDERS: dict[str, Callable[[int], np.ndarray]] = {
  'balanced': _balanced,
  'contiguous': _contiguous,
}


def chunks(mesh: Mesh, order: str) -> np.ndarray:
  """The numbers of the chunks of each device, int [N, chunks of a piece]."""
  return table.lookup('order', ORDERS, order)(mesh.shape[AXIS])


def divides(length: int, mesh: Mesh, order: str) -> bool:
  """Whether rows of this length are cut into equal chunks."""
  return length % chunks(mesh, order).size == 0


def check_length(length: int, mesh: Mesh, order: str, where: str) -> None:
  """Raises InputError unless rows of `length` tokens divide over the mesh.

  Args:
    length: tokens of a row.
    mesh: the devices.
    order: a name of ORDERS.
    where: the config key of the length.
  """
  if mesh.shape[AXIS] == 1 or divides(length, mesh, order):
    return
  number = chunks(mesh, order).size
  near = [n for n in (length - length % number, length) if n]
  near[-1] = length - length % number + number
  raise errors.InputError(
    f'{where}={length} tokens do not divide into the {number} chunks of '
    f'mesh.context={mesh.shape[AXIS]} in the {order} order; use '
    f'{" or ".join(map(str, dict.fromkeys(near)))}'
  )


def starts(mesh: Mesh, order: str, length: int) -> jax.Array:
  """Places in the row of the first tokens of this device's chunks, int32.

  For use inside `shard_map`.

  Args:
    mesh: the devices.
    order: a name of ORDERS.
    length: tokens of a piece.
  """
  chunk_NC = jnp.asarray(chunks(mesh, order), jnp.int32)
  size = length // chunk_NC.shape[1]
  return chunk_NC[jax.lax.axis_index(AXIS)] * size


def split(tree: Any, mesh: Mesh, order: str) -> Any:
  """Arrays [B, L, ...] of whole rows as arrays [P, S, ...] of their pieces.

  The L tokens must divide into the chunks of the order, and the rows over the
  row axes of the mesh.
  """
  return _moved(_to_pieces, tree, mesh, order, (_whole(), _pieces()))


def join(tree: Any, mesh: Mesh, order: str) -> Any:
  """The inverse of `split`."""
  return _moved(_to_rows, tree, mesh, order, (_pieces(), _whole()))


def gathered(x_PS: jax.Array, mesh: Mesh, order: str) -> jax.Array:
  """Pieces [P, S, ...] of all devices as rows [P, L, ...], for `shard_map`.

  The tokens are in the order of the data.
  """
  chunk_NC = chunks(mesh, order)
  x_NPS = jax.lax.all_gather(x_PS, AXIS)
  runs = []
  for place, part in enumerate(jnp.split(x_NPS, chunk_NC.shape[1], axis=2)):
    # Along the devices the numbers of these chunks rise, or they fall.
    falls = chunk_NC[0, place] > chunk_NC[-1, place]
    runs.append((chunk_NC[:, place].min(), part[::-1] if falls else part))
  x_MPS = jnp.concatenate([x for _, x in sorted(runs, key=lambda run: run[0])])
  x_PMS = jnp.moveaxis(x_MPS, 0, 1)
  return x_PMS.reshape(x_PS.shape[0], -1, *x_PS.shape[2:])


def _whole() -> PartitionSpec:
  return PartitionSpec(meshes.ROW_AXES, AXIS)


def _pieces() -> PartitionSpec:
  return PartitionSpec(meshes.BATCH_AXES)


def _moved(
  move: Callable[..., jax.Array],
  tree: Any,
  mesh: Mesh,
  order: str,
  specs: tuple[PartitionSpec, PartitionSpec],
) -> Any:
  run = functools.partial(move, chunks(mesh, order))
  return jax.shard_map(
    lambda tree: jax.tree.map(run, tree),
    mesh=mesh,
    in_specs=specs[0],
    out_specs=specs[1],
  )(tree)


def _to_pieces(chunk_NC: np.ndarray, x_BL: jax.Array) -> jax.Array:
  """The piece of this device, from the tokens of its place in the row.

  In the order of the data device j holds the C chunks C j to C j + C - 1. Each
  device sends the chunk of every remainder by C in a permutation of its own.
  """
  per_piece = chunk_NC.shape[1]
  if per_piece == 1:
    return x_BL
  parts = jnp.split(x_BL, per_piece, axis=1)
  came = jnp.stack([
    jax.lax.ppermute(part, AXIS, [(at, device) for device, at in pairs])
    for part, pairs in zip(parts, _pairs(chunk_NC), strict=True)
  ])
  remainder_NC = jnp.asarray(chunk_NC % per_piece)
  own_C = remainder_NC[jax.lax.axis_index(AXIS)]
  return jnp.concatenate([came[own_C[c]] for c in range(per_piece)], axis=1)


def _to_rows(chunk_NC: np.ndarray, x_PS: jax.Array) -> jax.Array:
  """The inverse of `_to_pieces`."""
  per_piece = chunk_NC.shape[1]
  if per_piece == 1:
    return x_PS
  parts = jnp.stack(jnp.split(x_PS, per_piece, axis=1))
  # The place in the piece of the chunk with remainder 0, 1, ...
  place_NC = jnp.asarray(np.argsort(chunk_NC % per_piece, axis=1))
  own_C = place_NC[jax.lax.axis_index(AXIS)]
  return jnp.concatenate(
    [
      jax.lax.ppermute(parts[own_C[remainder]], AXIS, pairs)
      for remainder, pairs in enumerate(_pairs(chunk_NC))
    ],
    axis=1,
  )


def _pairs(chunk_NC: np.ndarray) -> list[list[tuple[int, int]]]:
  """By remainder of a chunk's number: (its device, its device in data order).

  Example, N = 2, balanced: device 0 has chunks 0 and 3, device 1 has 1 and 2.
    remainder 0   chunk 0: (0, 0)   chunk 2: (1, 1)
    remainder 1   chunk 3: (0, 1)   chunk 1: (1, 0)
  """
  per_piece = chunk_NC.shape[1]
  by_remainder: list[list[tuple[int, int]]] = [[] for _ in range(per_piece)]
  for device, numbers in enumerate(chunk_NC.tolist()):
    for number in numbers:
      by_remainder[number % per_piece].append((device, number // per_piece))
  return by_remainder
