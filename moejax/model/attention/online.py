"""Attention block by block with an online softmax, over keys of many devices.

  out_PSHV = attend(schedule, q_PSHK, k_PSGK, v_PSGV, tokens, sink_H)

Every device has the queries and keys of its piece of each row, cut into blocks.
It adds up the blocks of keys that a block of queries sees (Milakov and
Gimelshein, arXiv 1805.02867, algorithm 3); for each query it keeps

  top    the largest score so far
  total  the sum of exp(score - top)
  out    the sum of exp(score - top) value

and divides at the end. The backward pass computes the scores once more, from
the logarithms of the sums (FlashAttention, arXiv 2205.14135, section 3.1). A
block of keys that lies behind all queries of a block, or before the windows of
all, costs nothing. A SCHEDULE says how a device comes by the keys of others:

  all_gather  all keys of a row at once, in every pass
  ring        the keys travel around the ring of devices, one step for each
              device (Ring Attention, arXiv 2310.01889, section 3)

In the backward pass the gradients of keys and values travel with them, or are
summed and scattered.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp

from moejax.core import varying
from moejax.parallel.context import AXIS

_NEVER = -1e30  # score of a hidden key; finite, so that no row is all infinite
# Largest block of queries and of keys, in tokens.
BLOCK = 1024


@flax.struct.dataclass
class Tokens:
  """The tokens of a piece.

  Attributes:
    segment_PS: int32, number of each token's document.
    start_C: int32, places in the row of the first tokens of the piece's chunks.
    window: int32 scalar, number of tokens that a query sees, its own included;
      0 for all.
  """

  segment_PS: jax.Array
  start_C: jax.Array
  window: jax.Array


@flax.struct.dataclass
class _Keys:
  """A device's keys: A blocks of S tokens.

  Attributes:
    k_APSGK: keys.
    v_APSGV: values.
    segment_APS: int32, number of each token's document.
    start_A: int32, place in the row of the first token of each block.
  """

  k_APSGK: jax.Array
  v_APSGV: jax.Array
  segment_APS: jax.Array
  start_A: jax.Array


@flax.struct.dataclass
class _Queries:
  """As `_Keys`; N query heads share a key head, and q is [A, P, S, G, N, K].

  In the backward pass `rest` has, by query, what it needs of the forward pass:
  the gradient of the output, the logarithm of the sum of exponentials, and the
  sum over features of the gradient times the output.
  """

  q_APSGNK: jax.Array
  segment_APS: jax.Array
  start_A: jax.Array
  rest: tuple[jax.Array, ...] = ()


# top_PGNS, total_PGNS, out_PGNSV of a block of queries; with A in front, of
# all.
_Sums = tuple[jax.Array, jax.Array, jax.Array]


class Schedule(Protocol):
  """How a device comes by the keys of the other devices along `context`."""

  def forward(
    self, update: Callable[..., _Sums], sums: _Sums, keys: _Keys
  ) -> _Sums:
    """The sums after `sums = update(sums, keys)` with all devices' keys."""
    ...

  def backward(
    self, step: Callable[..., Any], dq: jax.Array, keys: _Keys
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """dq, and the gradients of this device's keys and values.

    `dq, (dk, dv) = step(dq, keys)` adds to dq, and has the gradients of `keys`
    by the queries of this device.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Gathered:
  """Gathers all keys, in the forward pass and again in the backward pass."""

  def forward(self, update, sums, keys):
    return update(sums, self._all(keys))

  def backward(self, step, dq, keys):
    dq, grads = step(dq, self._all(keys))
    scatter = lambda x: jax.lax.psum_scatter(
      x, AXIS, scatter_dimension=0, tiled=True
    )
    return dq, jax.tree.map(scatter, grads)

  def _all(self, keys: _Keys) -> _Keys:
    gather = lambda x: jax.lax.all_gather(x, AXIS, axis=0, tiled=True)
    return jax.tree.map(gather, keys)


@dataclasses.dataclass(frozen=True)
class Rotated:
  """Passes keys on to the next device, N - 1 times.

  Attributes:
    devices: N, the number of devices along `context`.
  """

  devices: int

  def forward(self, update, sums, keys):
    def body(carry, _):
      sums, keys = carry
      # Sent before it is used, so that both can happen at the same time.
      following = self._next(keys)
      return (update(sums, keys), following), None

    (sums, keys), _ = jax.lax.scan(body, (sums, keys), length=self.devices - 1)
    return update(sums, keys)

  def backward(self, step, dq, keys):
    def body(carry, _):
      dq, keys, grads = carry
      following = self._next(keys)
      dq, more = step(dq, keys)
      grads = self._next(jax.tree.map(jnp.add, grads, more))
      return (dq, following, grads), None

    zeros = jax.tree.map(
      lambda x: varying.like(jnp.zeros(x.shape, jnp.float32), x),
      (keys.k_APSGK, keys.v_APSGV),
    )
    (dq, keys, grads), _ = jax.lax.scan(
      body, (dq, keys, zeros), length=self.devices - 1
    )
    dq, more = step(dq, keys)
    # After the last of N steps the gradients are where their keys came from.
    return dq, self._next(jax.tree.map(jnp.add, grads, more))

  def _next(self, tree: Any) -> Any:
    pairs = [(n, (n + 1) % self.devices) for n in range(self.devices)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, AXIS, pairs), tree)


def attend(
  schedule: Schedule,
  q_PSHK: jax.Array,
  k_PSGK: jax.Array,
  v_PSGV: jax.Array,
  tokens: Tokens,
  sink_H: jax.Array | None = None,
) -> jax.Array:
  """Causal attention within segments, inside `shard_map` over `context`.

  Args:
    schedule: how the device comes by the keys of others.
    q_PSHK: queries of this device's pieces, of S tokens.
    k_PSGK: keys, of G heads.
    v_PSGV: values, of any width V.
    tokens: the tokens of the pieces.
    sink_H: for each query head, the score of a further key whose value is 0.

  Returns:
    [P, S, H, V] in the type of the queries.
  """
  P, S, H, K = q_PSHK.shape
  G, V = k_PSGK.shape[2], v_PSGV.shape[3]
  chunk = S // tokens.start_C.shape[0]
  size = next(n for n in range(min(chunk, BLOCK), 0, -1) if chunk % n == 0)
  offset = jnp.arange(0, chunk, size, dtype=jnp.int32)
  start_A = (tokens.start_C[:, None] + offset).reshape(-1)
  blocks = lambda x: jnp.moveaxis(
    x.reshape(P, S // size, size, *x.shape[2:]), 1, 0
  )
  if sink_H is None:
    sink_GN = jnp.full((G, H // G), _NEVER)
  else:
    sink_GN = sink_H.astype(jnp.float32).reshape(G, -1)
  q, k, v, sink_GN, *places = varying.together(
    blocks(q_PSHK.reshape(P, S, G, H // G, K)),
    blocks(k_PSGK),
    blocks(v_PSGV),
    sink_GN,
    blocks(tokens.segment_PS),
    start_A,
    tokens.window,
  )
  out_APSGNV = _attend(schedule, q, k, v, sink_GN, tuple(places))
  return jnp.moveaxis(out_APSGNV, 0, 1).reshape(P, S, H, V)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(schedule, q, k, v, sink_GN, places):
  return _forward(schedule, q, k, v, sink_GN, places)[0]


def _forward(schedule, q, k, v, sink_GN, places):
  segment_APS, start_A, window = places
  queries = _Queries(q, segment_APS, start_A)
  keys = _Keys(k, v, segment_APS, start_A)
  A, P, S, G, N, _ = q.shape
  # A sink is a first key, whose value is 0. Without one its score is that of a
  # hidden key, which the first key that a query sees takes out of the sum.
  top = jnp.broadcast_to(sink_GN[..., None], (A, P, G, N, S))
  out = jnp.zeros((*top.shape, v.shape[-1]), jnp.float32)
  sums = (top, jnp.ones_like(top), varying.like(out, q))

  def update(sums: _Sums, keys: _Keys) -> _Sums:
    def one(block: tuple[_Queries, _Sums]) -> _Sums:
      queries, sums = block

      def add(sums: _Sums, keys: _Keys) -> tuple[_Sums, None]:
        more = lambda sums: _added(sums, queries, keys, window)
        seen = _meet(queries, keys, window)
        return jax.lax.cond(seen, more, lambda sums: sums, sums), None

      return jax.lax.scan(add, sums, keys)[0]

    return jax.lax.map(one, (queries, sums))

  top, total, out = schedule.forward(update, sums, keys)
  out = jnp.moveaxis(out / total[..., None], 4, 2).astype(q.dtype)
  lse = top + jnp.log(total)
  return out, (q, k, v, sink_GN, places, out, lse)


def _backward(schedule, kept, dout):
  q, k, v, sink_GN, places, out, lse = kept
  segment_APS, start_A, window = places
  product = dout.astype(jnp.float32) * out.astype(jnp.float32)
  inner = jnp.moveaxis(jnp.sum(product, axis=-1), 2, 4)
  queries = _Queries(q, segment_APS, start_A, (dout, lse, inner))
  keys = _Keys(k, v, segment_APS, start_A)

  def step(dq: jax.Array, keys: _Keys) -> Any:
    def one(dq: jax.Array, keys: _Keys) -> Any:
      def add(grads: Any, block: Any) -> Any:
        queries, dq = block
        more = lambda dq, grads: _with_grads(dq, grads, queries, keys, window)
        seen = _meet(queries, keys, window)
        dq, grads = jax.lax.cond(
          seen, more, lambda dq, grads: (dq, grads), dq, grads
        )
        return grads, dq

      zeros = jax.tree.map(
        lambda x: varying.like(jnp.zeros(x.shape, jnp.float32), x),
        (keys.k_APSGK, keys.v_APSGV),
      )
      grads, dq = jax.lax.scan(add, zeros, (queries, dq))
      return dq, grads

    return jax.lax.scan(one, dq, keys)

  zeros = varying.like(jnp.zeros(q.shape, jnp.float32), q)
  dq, (dk, dv) = schedule.backward(step, zeros, keys)
  sink = jnp.exp(sink_GN[..., None] - lse) * inner
  return (
    dq.astype(q.dtype),
    dk.astype(k.dtype),
    dv.astype(v.dtype),
    -jnp.sum(sink, axis=(0, 1, 4)),
    None,
  )


_attend.defvjp(_forward, _backward)


def _meet(queries: _Queries, keys: _Keys, window: jax.Array) -> jax.Array:
  """Whether a query of one block may see a key of another, by their places."""
  ahead = queries.start_A - keys.start_A
  size = keys.segment_APS.shape[-1]
  return (ahead >= 0) & ((window == 0) | (ahead - size + 1 < window))


def _scores(
  queries: _Queries, keys: _Keys, window: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Scaled scores of two blocks, [P, G, N, S, S'], and which of them count."""
  q, k = queries.q_APSGNK, keys.k_APSGK
  score = _dot('PSGNK,PTGK->PGNST', q, k) * q.shape[-1] ** -0.5
  place_S = jnp.arange(k.shape[1], dtype=jnp.int32)
  behind_ST = queries.start_A - keys.start_A + place_S[:, None] - place_S
  mask_ST = (behind_ST >= 0) & ((window == 0) | (behind_ST < window))
  same_PST = queries.segment_APS[:, :, None] == keys.segment_APS[:, None]
  mask = (same_PST & mask_ST)[:, None, None]
  return jnp.where(mask, score, _NEVER), mask


def _added(
  sums: _Sums, queries: _Queries, keys: _Keys, window: jax.Array
) -> _Sums:
  """The sums of a block of queries, with those of a block of keys added."""
  top, total, out = sums
  score, mask = _scores(queries, keys, window)
  new_top = jnp.maximum(top, jnp.max(score, axis=-1))
  exp = jnp.where(mask, jnp.exp(score - new_top[..., None]), 0.0)
  scale = jnp.exp(top - new_top)
  value = _dot(
    'PGNST,PTGV->PGNSV', exp.astype(keys.v_APSGV.dtype), keys.v_APSGV
  )
  total = total * scale + jnp.sum(exp, axis=-1)
  return new_top, total, out * scale[..., None] + value


def _with_grads(
  dq: jax.Array,
  grads: tuple[jax.Array, jax.Array],
  queries: _Queries,
  keys: _Keys,
  window: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  """Gradients dq and (dk, dv) of two blocks, with those by each other added."""
  dout, lse, inner = queries.rest
  q, k, v = queries.q_APSGNK, keys.k_APSGK, keys.v_APSGV
  dk, dv = grads
  score, mask = _scores(queries, keys, window)
  prob = jnp.where(mask, jnp.exp(score - lse[..., None]), 0.0)
  dv += _dot('PGNST,PSGNV->PTGV', prob.astype(dout.dtype), dout)
  dprob = _dot('PSGNV,PTGV->PGNST', dout, v)
  dscore = prob * (dprob - inner[..., None]) * q.shape[-1] ** -0.5
  dscore = dscore.astype(q.dtype)
  dq += _dot('PGNST,PTGK->PSGNK', dscore, k)
  dk += _dot('PGNST,PSGNK->PTGK', dscore, q)
  return dq, (dk, dv)


def _dot(dims: str, a: jax.Array, b: jax.Array) -> jax.Array:
  return jnp.einsum(dims, a, b, preferred_element_type=jnp.float32)
