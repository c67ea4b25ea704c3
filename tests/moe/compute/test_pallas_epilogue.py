import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.moe.compute import pallas_epilogue
from moejax.moe.compute.pallas_epilogue import KernelBody, Operands, Tiles

R, E, TILE = 40, 4, 8
SIZE_E = jnp.asarray([11, 0, 20, 6], jnp.int32)  # 3 rows have no expert
EXPERT_R = np.repeat(np.arange(E), SIZE_E)
OWNED = len(EXPERT_R)


def _given(K, N, transpose, seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  ws = tuple(draw(E, N, K) if t else draw(E, K, N) for t in transpose)
  return Operands((draw(R, K), draw(R, K)), ws, (draw(R, N), draw(R, 1)))


def _product(x_RK, w, transpose):
  w_EKN = np.swapaxes(w, 1, 2) if transpose else w
  return np.einsum('RK,RKN->RN', x_RK[:OWNED], w_EKN[EXPERT_R])


# Two sums, the first of two products; the second is finished with what is
# beside, and added up over the columns.
WORK = KernelBody(
  sums=(((0, 0), (1, 1)), ((1, 0),)),
  outs=(jnp.float32, jnp.float32),
  finish=lambda sums, beside: (sums[0], sums[1] * beside[0], sums[1]),
  transpose=(True, False),
  partial=True,
)


def _want(operands):
  (x, other), (w, v) = operands.xs, operands.ws
  first = _product(x, w, True) + _product(other, v, False)
  second = _product(other, w, True)
  return first, second * operands.beside[0][:OWNED], second.sum(axis=1)


@pytest.mark.parametrize(
  ('sizes', 'each'),
  [
    ((24, 16), (24, 16)),
    pytest.param((256, 256), (128, 128), marks=pytest.mark.soak),
    # The last pieces are not full: what lies behind must not count.
    ((200, 300), (128, 128)),
    pytest.param((200, 300), (200, 256), marks=pytest.mark.soak),
  ],
)
def test_sums_of_products_and_what_is_made_of_them(sizes, each, monkeypatch):
  operands = _given(*sizes, WORK.transpose)
  tiles = Tiles((R, *sizes), (TILE, *each))
  monkeypatch.setattr(pallas_epilogue, 'choose_tiles', lambda *_: tiles)
  *got, partial = pallas_epilogue.run(
    WORK, operands, SIZE_E, TILE, interpret=True
  )
  partial = np.asarray(partial)
  assert partial.shape[1] == tiles.number[2] * tiles.lanes
  for a, b in zip([*got, partial.sum(axis=1)], _want(operands), strict=True):
    a = np.asarray(a)
    np.testing.assert_allclose(a[:OWNED], b, atol=1e-4 * np.abs(b).max())
    # Nobody writes the rest, which is NaN to the interpreter.
    assert np.all(np.isnan(a[-1]))


def test_tiles_fit_and_move_as_little_as_they_can():
  """Of the experts of a 16B model: no tile is better than those taken."""
  sizes = {'K': 2048, 'N': 1408}
  shape = lambda *dims: jax.ShapeDtypeStruct(dims, jnp.bfloat16)
  rows, w = shape(196_608, sizes['K']), shape(64, *sizes.values())
  operands = Operands((rows,), (w, w))
  body = KernelBody(
    (((0, 0),), ((0, 1),)), (jnp.bfloat16,), None, (False, False)
  )
  tiles = pallas_epilogue.choose_tiles(body, operands, 512)
  assert (
    pallas_epilogue.bytes_held(body, operands, tiles)
    <= pallas_epilogue.FAST_MEMORY
  )
  # The depth is one piece: so an expert's weights are read once.
  assert tiles.each[1] == sizes['K']
  wider = Tiles(tiles.whole, (512, sizes['K'], 2 * tiles.each[2]))
  assert (
    pallas_epilogue.bytes_held(body, operands, wider)
    > pallas_epilogue.FAST_MEMORY
  )
  # The weights once, the rows for each piece of the columns, the result.
  padded = tiles.number[2] * tiles.each[2]
  want = 2 * (2 * 64 * sizes['K'] * padded)
  want += 2 * 196_608 * (sizes['K'] * tiles.number[2] + sizes['N'])
  assert pallas_epilogue.bytes_moved(body, operands, tiles) == want


def test_what_does_not_fit_takes_the_smallest():
  wide = lambda *dims: jax.ShapeDtypeStruct(dims, jnp.float32)
  operands = Operands((wide(8192, 256),) * 8, (wide(2, 256, 256),) * 8)
  sums = tuple(((n, n),) for n in range(8))
  body = KernelBody(sums, (jnp.float32,), None, (False,) * 8)
  assert pallas_epilogue.choose_tiles(body, operands, 4096).each == (
    4096,
    128,
    128,
  )
