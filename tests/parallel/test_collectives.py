"""Rows between devices, against loops over senders and receivers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from helpers import tiny
from jax.sharding import PartitionSpec as P

from moejax.parallel import collectives

NUM, ROWS = 4, 6  # devices, rows of each
RNG = np.random.default_rng(0)
# What each device has for each; device 1 has nothing for 0, and 3 nothing.
SIZE_PP = np.array([[1, 2, 0, 3], [0, 1, 4, 1], [2, 2, 2, 0], [0, 0, 0, 0]])
X_PAN = RNG.normal(size=(NUM, ROWS, 3)).astype(np.float32)


def by_loops(x_PAN, size_PP, room):
  """What each device receives, and which rows were sent at all."""
  received = np.zeros((NUM, room, x_PAN.shape[2]), x_PAN.dtype)
  sent = np.zeros(x_PAN.shape[:2], bool)
  for receiver in range(NUM):
    place = 0
    for sender in range(NUM):
      first = size_PP[sender, :receiver].sum()
      for row in range(first, first + size_PP[sender, receiver]):
        if place < room:
          received[receiver, place] = x_PAN[sender, row]
          sent[sender, row] = True
        place += 1
  return received, sent


@functools.partial(jax.jit, static_argnums=2)
def moved(x_PAN, size_PP, room):
  """There, and there and back."""

  def local(x_1AN, size_1P):
    plan = collectives.plan(size_1P[0], room, 'expert')
    there_RN = collectives.move(x_1AN[0], plan, room, 'expert')
    back_AN = collectives.move(there_RN, plan.reversed(), ROWS, 'expert')
    return there_RN[None], back_AN[None]

  return jax.shard_map(
    local,
    mesh=tiny.mesh(NUM, data=1, expert=NUM),
    in_specs=P('expert'),
    out_specs=P('expert'),
  )(x_PAN, size_PP)


def test_rows_arrive_sorted_by_sender_and_come_back():
  for room in (12, 4):
    want, sent = by_loops(X_PAN, SIZE_PP, room)
    there, back = moved(X_PAN, jnp.asarray(SIZE_PP), room)
    np.testing.assert_array_equal(there, want)
    np.testing.assert_array_equal(back, X_PAN * sent[..., None])
  assert not sent.all()


def test_the_gradient_takes_the_way_back():
  pull = RNG.normal(size=(NUM, 12, 3)).astype(np.float32)
  loss = lambda x: jnp.vdot(moved(x, jnp.asarray(SIZE_PP), 12)[0], pull)
  got = jax.grad(loss)(X_PAN)
  # The loops are linear: each row's gradient is what its copy is pulled with.
  want = np.zeros_like(X_PAN)
  for i in np.ndindex(X_PAN.shape):
    one = np.zeros_like(X_PAN)
    one[i] = 1
    want[i] = np.vdot(by_loops(one, SIZE_PP, 12)[0], pull)
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_whole_numbers_travel_too():
  x = np.arange(NUM * ROWS, dtype=np.int32).reshape(NUM, ROWS, 1)
  there, _ = moved(x, jnp.asarray(SIZE_PP), 12)
  assert there.dtype == jnp.int32
  np.testing.assert_array_equal(there, by_loops(x, SIZE_PP, 12)[0])
