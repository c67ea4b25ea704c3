"""Routed experts whose single outputs are looked at: norms and dot products.

An implementation adds up the outputs of a token's experts, and the fused ones
never have them as arrays. These functions compute the same in stages and read
the rows between the experts and their weighted sum.
"""

import jax
import jax.numpy as jnp

from moejax.moe import contract
from moejax.moe.compute.base import ExpertOutput
from moejax.moe.compute.staged import StagedCompute

# Tokens that every expert computes at once for `gram`, about.
PIECE = 256


def output(
  compute: StagedCompute,
  experts: dict[str, jax.Array],
  x_TD: jax.Array,
  routing: contract.Routing,
  num_experts: int,
  sum_over: tuple[str, ...] = (),
) -> ExpertOutput:
  """The routed experts' output, and the norm of each single output.

  Args:
    compute: the stages.
    experts: weights of all experts.
    x_TD: token vectors.
    routing: their assignments, after the dispatcher's limit.
    num_experts: number of experts with weights.
    sum_over: mesh axes over which the hidden width of experts is split.
  """
  x_RD, size_E, note = compute.dispatch(x_TD, routing, num_experts)
  y_RD = _whole(compute.apply(experts, x_RD, size_E), sum_over)
  norm_R = jnp.linalg.norm(y_RD.astype(jnp.float32), axis=1)
  return ExpertOutput(
    out_TD=compute.combine(y_RD, routing, note, x_TD.shape[0]),
    sent_A=note.row_A < x_RD.shape[0],
    norm_A=norm_R.at[note.row_A].get(mode='fill', fill_value=0),
  )


def gram(
  compute: StagedCompute,
  experts: dict[str, jax.Array],
  x_BLD: jax.Array,
  valid_BL: jax.Array,
  num_experts: int,
  sum_over: tuple[str, ...] = (),
) -> jax.Array:
  """gram_BEE: dot products of the outputs of each two experts, summed by row.

  Every expert computes every token, some tokens at a time.

  Args:
    compute: the stages.
    experts: weights of all experts.
    x_BLD: token vectors by row of the batch.
    valid_BL: bool; other tokens are not counted.
    num_experts: number of experts with weights.
    sum_over: mesh axes over which the hidden width of experts is split.
  """
  rows, length, width = x_BLD.shape
  multiple = compute.multiply.row_multiple
  piece = -(-min(length, PIECE) // multiple) * multiple
  pieces = -(-length // piece)
  pad = (0, 0), (0, pieces * piece - length)
  x_NPD = jnp.pad(x_BLD, (*pad, (0, 0))).reshape(-1, piece, width)
  valid_NP = jnp.pad(valid_BL, pad).reshape(-1, piece)
  size_E = jnp.full((num_experts,), piece, jnp.int32)

  def of_piece(x: tuple[jax.Array, jax.Array]) -> jax.Array:
    x_PD, valid_P = x
    x_RD = jnp.tile(x_PD, (num_experts, 1))
    y_RD = _whole(compute.apply(experts, x_RD, size_E), sum_over)
    y_EPD = y_RD.reshape(num_experts, piece, width).astype(jnp.float32)
    y_EPD = jnp.where(valid_P[:, None], y_EPD, 0)
    return jnp.einsum(
      'epd,fpd->ef', y_EPD, y_EPD, precision=jax.lax.Precision.HIGHEST
    )

  gram_NEE = jax.lax.map(of_piece, (x_NPD, valid_NP))
  return jnp.sum(gram_NEE.reshape(rows, pieces, *gram_NEE.shape[1:]), axis=1)


def _whole(y_RD: jax.Array, sum_over: tuple[str, ...]) -> jax.Array:
  """The outputs of the experts, of which each device has part of the sum."""
  return jax.lax.psum(y_RD, sum_over) if sum_over else y_RD
