"""A loop over pieces of grouped rows, each piece of one expert.

Groups start at multiples of `block` rows. A group of n blocks is cut into
pieces whose sizes, in blocks, are taken from `ladder`, the largest first: with
block 64 and ladder (8, 4, 2, 1) a group of 11 blocks becomes pieces of 512,
128 and 64 rows. Shapes in a compiled loop are fixed, so there is one loop per
rung; how often it runs is decided when it runs: rows of no group cost nothing.

Long pieces, because what a piece costs besides its matmuls (weights copied,
threads started) is that of about 30 rows; small blocks, because a group is
padded by half a block. By that count 64 x (8, 4, 2, 1) is within 1% of the
best ladder of four rungs for 2,048 tokens, 16 to 64 experts and 4 to 6 experts
per token; twelve rungs would be 5% better and take twice as long to compile.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Blocks:
  """How groups are cut into pieces: rows of a block, blocks of the pieces."""

  block: int = 64
  ladder: tuple[int, ...] = (8, 4, 2, 1)

  def __post_init__(self):
    if self.ladder[-1] != 1:
      raise ValueError(f'ladder {self.ladder} must end in 1, or rows are left')

  def each(
    self,
    size_E: jax.Array,
    num_rows: int,
    body: Callable[[jax.Array, int, jax.Array, Any], Any],
    carry: Any,
  ) -> Any:
    """Runs `carry = body(start, length, expert, carry)` over all pieces.

    `length` is a Python int; `start` is the first row of the piece.
    """
    (num_experts,) = size_E.shape
    left_E = size_E // self.block
    start_E = jnp.cumsum(size_E) - size_E
    for rung in self.ladder:
      length = rung * self.block
      # Pieces far longer than a usual group are not worth compiling.
      if length * num_experts > 2 * num_rows and rung != self.ladder[-1]:
        continue
      number_E = left_E // rung
      end_E = jnp.cumsum(number_E)
      piece_P1 = jnp.arange(num_rows // length, dtype=jnp.int32)[:, None]
      expert_P = jnp.sum(piece_P1 >= end_E, axis=1, dtype=jnp.int32)
      expert_P = jnp.minimum(expert_P, num_experts - 1)
      nth_P = piece_P1[:, 0] - (end_E - number_E)[expert_P]
      start_P = start_E[expert_P] + nth_P * length

      def step(p, carry, length=length, start_P=start_P, expert_P=expert_P):
        return body(start_P[p], length, expert_P[p], carry)

      carry = jax.lax.fori_loop(0, end_E[-1], step, carry)
      start_E += number_E * length
      left_E -= number_E * rung
    return carry


def read(x_RN: jax.Array, start: jax.Array, length: int) -> jax.Array:
  """Rows [start, start + length)."""
  return jax.lax.dynamic_slice_in_dim(x_RN, start, length)


def write(x_RN: jax.Array, rows: jax.Array, start: jax.Array) -> jax.Array:
  """`x_RN` with `rows` from row `start` on; in place inside a loop."""
  rows = rows.astype(x_RN.dtype)
  return jax.lax.dynamic_update_slice_in_dim(x_RN, rows, start, 0)


def weights(w_EDF: jax.Array, expert: jax.Array, dtype: Any) -> jax.Array:
  """The weights of one expert."""
  return jax.lax.dynamic_index_in_dim(w_EDF, expert, keepdims=False).astype(
    dtype
  )


def accumulate(w_EDF: jax.Array, w_DF: jax.Array, expert: jax.Array):
  """Adds to the weights of one expert; in place inside a loop."""
  old_DF = jax.lax.dynamic_index_in_dim(w_EDF, expert, keepdims=False)
  return jax.lax.dynamic_update_index_in_dim(w_EDF, old_DF + w_DF, expert, 0)


def dot(a: jax.Array, b: jax.Array, a_dim: int, b_dim: int) -> jax.Array:
  """Matrix product over the named dims, summed in float32."""
  return jax.lax.dot_general(
    a, b, (((a_dim,), (b_dim,)), ((), ())), preferred_element_type=jnp.float32
  )
