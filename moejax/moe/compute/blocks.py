"""A loop over pieces of rows that are grouped by expert, for CPU.

Groups start at multiples of `block` rows. A group of n blocks is cut into
pieces whose sizes, in blocks, are taken from `ladder`, the largest first: with
block 32 and ladder (16, 7, 3, 1) a group of 21 blocks becomes pieces of 512,
96, 32 and 32 rows. Shapes in a compiled loop are fixed, so there is one loop
per rung of the ladder. The number of iterations is decided at run time, so rows
of no group cost nothing.

Pieces are long because the fixed cost of a piece, copying rows and starting
threads, is that of 30 rows. Blocks are small because a group is padded by half
a block on average. Rungs are few because each is compiled by itself. By this
count of costs, for 2,048 tokens, 16 to 64 experts and 4 to 6 experts per token,
32 x (16, 7, 3, 1) is the best ladder of four rungs with this block. In
measurements, five rungs (16, 8, 4, 2, 1) and eight are no faster, and
64 x (8, 4, 2, 1) is 4% slower.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# (body, carry) -> carry: a loop over the pieces of one expert, see
# `Blocks.each_expert`.
Pieces = Callable[[Callable[[jax.Array, int, Any], Any], Any], Any]


@dataclasses.dataclass(frozen=True)
class Blocks:
  """How groups of rows are cut into pieces.

  Attributes:
    block: rows of a block; every group is a multiple of it.
    ladder: sizes of pieces in blocks, the largest first and 1 last.
  """

  block: int = 32
  ladder: tuple[int, ...] = (16, 7, 3, 1)

  def __post_init__(self):
    if self.ladder[-1] != 1:
      raise ValueError(f'ladder {self.ladder} must end in 1, or rows are left')

  def each_expert(
    self,
    size_E: jax.Array,
    num_rows: int,
    visit: Callable[[jax.Array, Pieces, Any], Any],
    carry: Any,
  ) -> Any:
    """Runs `carry = visit(expert, pieces, carry)` over all experts.

    Inside `visit`, `carry = pieces(body, carry)` runs
    `carry = body(start, length, carry)` over the pieces of that expert: `start`
    is the first row, `length` a Python int. Work that is needed once per expert
    belongs outside `body`.

    Args:
      size_E: rows of each expert, multiples of `block`.
      num_rows: R, the number of rows with those of no expert.
      visit: see above.
      carry: the initial value of the carry.

    Returns:
      The carry after the last expert.
    """
    (num_experts,) = size_E.shape
    first_E = jnp.cumsum(size_E) - size_E
    # Pieces far longer than the usual group are not worth compiling.
    longest = min(max(2 * num_rows // num_experts, self.block), num_rows)
    rungs = [rung for rung in self.ladder if rung * self.block <= longest]

    def one(expert, carry):
      def pieces(body, carry):
        start, left = first_E[expert], size_E[expert] // self.block
        for rung in rungs:
          length = rung * self.block
          number = left // rung
          step = functools.partial(_step, body, start, length)
          carry = jax.lax.fori_loop(0, number, step, carry)
          start += number * length
          left -= number * rung
        return carry

      return jax.lax.cond(
        size_E[expert] > 0,
        lambda carry: visit(expert, pieces, carry),
        lambda carry: carry,
        carry,
      )

    return jax.lax.fori_loop(0, num_experts, one, carry)


def _step(body, start, length, nth, carry):
  return body(start + nth * length, length, carry)


def read(x_RN: jax.Array, start: jax.Array, length: int) -> jax.Array:
  """Rows [start, start + length)."""
  return jax.lax.dynamic_slice_in_dim(x_RN, start, length)


def write(x_RN: jax.Array, rows: jax.Array, start: jax.Array) -> jax.Array:
  """`x_RN` with `rows` from row `start` on; in place inside a loop."""
  rows = rows.astype(x_RN.dtype)
  return jax.lax.dynamic_update_slice_in_dim(x_RN, rows, start, 0)


def weights(w_EDF: jax.Array, expert: jax.Array, dtype: Any) -> jax.Array:
  """The weights of one expert."""
  w_DF = jax.lax.dynamic_index_in_dim(w_EDF, expert, keepdims=False)
  return w_DF.astype(dtype)


def set_weights(w_EDF: jax.Array, w_DF: jax.Array, expert: jax.Array):
  """`w_EDF` with the weights of one expert replaced; in place inside a loop."""
  w_DF = w_DF.astype(w_EDF.dtype)
  return jax.lax.dynamic_update_index_in_dim(w_EDF, w_DF, expert, 0)


def dot(a: jax.Array, b: jax.Array, a_dim: int, b_dim: int) -> jax.Array:
  """Matrix product over the named dims, summed in float32."""
  return jax.lax.dot_general(
    a, b, (((a_dim,), (b_dim,)), ((), ())), preferred_element_type=jnp.float32
  )
