"""Pieces of rows: which tokens a device holds, and back."""

import functools

import jax
import numpy as np
import pytest
from helpers import tiny

from moejax.core import errors
from moejax.parallel import context


@functools.cache
def mesh():
  return tiny.mesh(8, data=2, context=4)


# By order, the tokens of 16 that each of four devices holds, by hand.
HELD = {
  'contiguous': [
    [0, 1, 2, 3],
    [4, 5, 6, 7],
    [8, 9, 10, 11],
    [12, 13, 14, 15],
  ],
  'balanced': [
    [0, 1, 14, 15],
    [2, 3, 12, 13],
    [4, 5, 10, 11],
    [6, 7, 8, 9],
  ],
}


@pytest.mark.parametrize('order', sorted(context.ORDERS))
def test_every_device_holds_its_chunks(order):
  """The pieces of the rows of one device along `data` follow each other."""
  row_L = np.arange(16)
  x_BL = np.stack([row_L, row_L + 100], dtype=np.int32)
  tree = {'ids': x_BL, 'wide': np.stack([x_BL, -x_BL], axis=-1)}
  run = jax.jit(lambda tree: context.split(tree, mesh(), order))
  pieces = run(tree)
  held_NS = np.array(HELD[order])
  np.testing.assert_array_equal(pieces['ids'], [*held_NS, *(held_NS + 100)])
  np.testing.assert_array_equal(pieces['wide'][..., 1], -pieces['ids'])
  back = jax.jit(lambda tree: context.join(tree, mesh(), order))(pieces)
  jax.tree.map(np.testing.assert_array_equal, back, tree)


@pytest.mark.parametrize('devices', [1, 2, 3, 4, 5])
@pytest.mark.parametrize('order', sorted(context.ORDERS))
def test_every_chunk_is_dealt_once_and_can_travel(order, devices):
  """`split` sends the chunks of each remainder in a permutation."""
  chunk_NC = context.ORDERS[order](devices)
  assert sorted(chunk_NC.flat) == list(range(chunk_NC.size))
  per_piece = chunk_NC.shape[1]
  want = np.tile(np.arange(per_piece), (devices, 1))
  np.testing.assert_array_equal(np.sort(chunk_NC % per_piece), want)


def test_the_balanced_order_gives_all_devices_the_same_work():
  """Chunk c sees the c chunks before it whole, and half of itself."""
  work = lambda order: (context.ORDERS[order](4) + 0.5).sum(axis=1)
  np.testing.assert_array_equal(work('balanced'), [8, 8, 8, 8])
  np.testing.assert_array_equal(work('contiguous'), [0.5, 1.5, 2.5, 3.5])


def test_starts_are_the_places_of_the_chunks():
  """8 tokens of a piece, in two chunks: chunk c begins at token 4 c."""
  run = jax.shard_map(
    lambda: context.starts(mesh(), 'balanced', 8)[None],
    mesh=mesh(),
    in_specs=(),
    out_specs=jax.sharding.PartitionSpec('context'),
  )
  want = [[0, 28], [4, 24], [8, 20], [12, 16]]
  np.testing.assert_array_equal(jax.jit(run)(), want)


def test_lengths_that_do_not_divide_are_refused():
  check = functools.partial(
    context.check_length, order='balanced', where='data.sequence_length'
  )
  check(24, mesh())
  check(7, tiny.mesh(1))
  with pytest.raises(
    errors.InputError,
    match=r'data.sequence_length=20 tokens .* 8 chunks of mesh.context=4 in '
    'the balanced order; use 16 or 24',
  ):
    check(20, mesh())
  with pytest.raises(errors.InputError, match='use 8$'):
    check(5, mesh())
