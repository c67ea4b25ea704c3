"""SwiGLU experts over few rows, as in writing text, for CPU.

When a token is written for each of some texts, an expert has a row or two, and
the time goes into reading weights. So this loop reads those of the experts that
have rows, and no others:

  expert_R   2 2 2 5 7 7        rows in the order of their experts
  blocks     [2 2][2 5][5 7][7 7]  of two rows; the first of each has its expert

A block has rows of the experts behind its own, if it is too long. What it
computes for them is wrong, and the blocks of those experts, which come later,
write over it. So groups need no padding.

There is no gradient: `cpu_fused_swiglu` has one.
"""

import jax
import jax.numpy as jnp

from moejax.core import varying
from moejax.moe.compute import blocks, permute

# Rows of a block. Up to so many, a product costs what reading the weights does.
BLOCK = 4


def output(
  per_token: int | None,
  x_TD: jax.Array,
  weight_A: jax.Array,
  w_gate_up_EDF: jax.Array,
  w_down_EFD: jax.Array,
  token_A: jax.Array,
  expert_A: jax.Array,
) -> jax.Array:
  """out_TD: the weighted sum of each token's experts, in the type of `x_TD`.

  Args:
    per_token: see `contract.Routing`.
    x_TD: token vectors.
    weight_A: weight of each assignment.
    w_gate_up_EDF: weights [E, D, 2 F], gate, then up; of any type.
    w_down_EFD: weights of any type.
    token_A: int32, its token.
    expert_A: int32, its expert; E is nowhere.
  """
  dtype, num_tokens = x_TD.dtype, x_TD.shape[0]
  num_experts, A = w_down_EFD.shape[0], expert_A.shape[0]
  block = BLOCK if num_tokens >= BLOCK else 1
  row_A = _rows(expert_A)
  is_row_RA = row_A == jnp.arange(A)[:, None]
  in_order = lambda x_A: jnp.sum(jnp.where(is_row_RA, x_A, 0), axis=1)
  # Behind the last row, a block reads rows of an expert that there is not.
  expert_R = jnp.pad(
    in_order(expert_A), (0, block), constant_values=num_experts
  )
  token_R = jnp.pad(in_order(token_A), (0, block))

  def compute(carry):
    start, y_RD = carry
    expert = expert_R[start]
    x_BD = x_TD.at[blocks.read(token_R, start, block)].get(
      mode='promise_in_bounds'
    )
    z_BF = blocks.dot(x_BD, blocks.weights(w_gate_up_EDF, expert, dtype), 1, 0)
    gate_BF, up_BF = jnp.split(z_BF.astype(dtype), 2, axis=1)
    a_BF = (jax.nn.silu(gate_BF) * up_BF).astype(dtype)
    y_BD = blocks.dot(a_BF, blocks.weights(w_down_EFD, expert, dtype), 1, 0)
    own = jnp.sum(blocks.read(expert_R, start, block) == expert)
    return start + own, blocks.write(y_RD, y_BD, start)

  y_RD = jnp.zeros((A + block, w_down_EFD.shape[2]), jnp.float32)
  carry = tuple(varying.like(x, x_TD) for x in (jnp.int32(0), y_RD))
  _, y_RD = jax.lax.while_loop(
    lambda carry: expert_R[carry[0]] < num_experts, compute, carry
  )
  # Assignments to nowhere have the last rows, which are zero or wrong.
  row_A = jnp.where(expert_A < num_experts, row_A, A + block)
  note = permute.Grouping(row_A, token_R, jnp.zeros(0, jnp.int32))
  return permute.combine(
    y_RD, weight_A, token_A, note, num_tokens, per_token
  ).astype(dtype)


def _rows(expert_A: jax.Array) -> jax.Array:
  """The row of each assignment, in the order of the experts, then of the list.

  By comparing all with all, which is faster than sorting a few hundred.

  Example: [7, 2, 7, 2] -> [2, 0, 3, 1]
  """
  index_A = jnp.arange(expert_A.shape[0])
  earlier_AA = index_A < index_A[:, None]
  before_AA = (expert_A < expert_A[:, None]) | (
    (expert_A == expert_A[:, None]) & earlier_AA
  )
  return jnp.sum(before_AA, axis=1, dtype=jnp.int32)
