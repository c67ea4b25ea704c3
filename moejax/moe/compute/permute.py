"""Permutation of token vectors into rows grouped by expert, and back.

  group(expert_A, num_experts, multiple)                         -> Grouping
  gather(x_TD, token_A, grouping, per_token)                     -> x_RD
  combine(y_RD, weight_A, token_A, grouping, num_tokens, per_token) -> out_TD

Example, 3 tokens, K = 2, 2 experts, multiple = 2; the list is K-outermost, so
assignment a belongs to token a % 3:

  expert_A      0 1 1 1 0 1        (a = 0 .. 5)
  row_A         0 2 3 4 1 5        expert 0 owns rows 0-1, expert 1 rows 2-5
  assignment_R  0 4 1 2 3 5 6 6    6 = A: padding
  size_E        2 4
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from moejax.core import scopes, varying


@flax.struct.dataclass
class Grouping:
  """The row of each assignment.

  The groups are contiguous from row 0, in the order of the experts, and each
  starts at a multiple of `multiple`.
  """

  row_A: jax.Array  # int32; the row of each assignment, R if it has none
  assignment_R: jax.Array  # int32; the assignment of each row, A for padding
  size_E: jax.Array  # int32; rows of each expert, its padding rows included


def num_rows(num_assignments: int, num_experts: int, multiple: int) -> int:
  """R, the number of rows that suffices for any routing."""
  most = num_assignments + num_experts * (multiple - 1)
  return -(-most // multiple) * multiple


@scopes.part('dispatch')
def group(expert_A: jax.Array, num_experts: int, multiple: int) -> Grouping:
  """Gives every assignment a row, grouped by expert.

  Inside an expert the order of the list is kept. Expert id `num_experts` means
  nowhere: no row.

  Args:
    expert_A: int32 in [0, num_experts].
    num_experts: E.
    multiple: every group starts at, and has, a multiple of this many rows.
  """
  (A,) = expert_A.shape
  R = num_rows(A, num_experts, multiple)
  index_A = jnp.arange(A, dtype=jnp.int32)
  if A * (num_experts + 1) < 2**31:
    # One sort of one array: on CPU a quarter of the time of a stable argsort.
    key_A = jnp.sort(expert_A.astype(jnp.int32) * A + index_A, stable=False)
    order_A = key_A % A
  else:
    order_A = jnp.argsort(expert_A, stable=True).astype(jnp.int32)
  count_E = jnp.bincount(expert_A, length=num_experts).astype(jnp.int32)
  size_E = -(-count_E // multiple) * multiple
  # Padding rows before each expert's first row; R moves "nowhere" past the end.
  shift_E = jnp.cumsum(size_E - count_E) - (size_E - count_E)
  shift_E = jnp.append(shift_E, R)
  place_A = jnp.minimum(index_A + shift_E[expert_A[order_A]], R)
  row_A = (
    jnp.zeros((A,), jnp.int32).at[order_A].set(place_A, unique_indices=True)
  )
  assignment_R = (
    jnp.full((R,), A, jnp.int32).at[place_A].set(order_A, mode='drop')
  )
  return Grouping(row_A=row_A, assignment_R=assignment_R, size_E=size_E)


@scopes.part('dispatch')
def gather(
  x_TD: jax.Array,
  token_A: jax.Array,
  grouping: Grouping,
  per_token: int | None = None,
) -> jax.Array:
  """The rows of the experts: `x_RD`, zeros in padding rows.

  Args:
    x_TD: token vectors.
    token_A: int32, the token of each assignment.
    grouping: from `group`.
    per_token: K if the list is K-outermost, that is, assignment a is of token
      a % T and A = K * T; the gradient then consists of gathers alone. None
      for any other list.
  """
  if per_token is None:
    A = token_A.shape[0]
    row_token_R = jnp.append(token_A, x_TD.shape[0])[
      jnp.minimum(grouping.assignment_R, A)
    ]
    return x_TD.at[row_token_R].get(mode='fill', fill_value=0)
  x_TD, row_A, assignment_R = varying.together(
    x_TD, grouping.row_A, grouping.assignment_R
  )
  return _gather(x_TD, row_A, assignment_R)


@scopes.part('dispatch')
def combine(
  y_RD: jax.Array,
  weight_A: jax.Array,
  token_A: jax.Array,
  grouping: Grouping,
  num_tokens: int,
  per_token: int | None = None,
) -> jax.Array:
  """Per token, the sum over its assignments of weight times row: `out_TD`.

  Sums in float32, returns the dtype of `y_RD`; gradients to `y_RD` and
  `weight_A`. An assignment without a row adds nothing.
  """
  if per_token is None:
    y_AD = y_RD.at[grouping.row_A].get(mode='fill', fill_value=0)
    y_AD = y_AD.astype(jnp.float32) * weight_A[:, None]
    out_TD = jax.ops.segment_sum(y_AD, token_A, num_segments=num_tokens)
    return out_TD.astype(y_RD.dtype)
  y_RD, weight_A, row_A, assignment_R = varying.together(
    y_RD, weight_A, grouping.row_A, grouping.assignment_R
  )
  return _combine(num_tokens, y_RD, weight_A, row_A, assignment_R)


def _rows(x_ND, index):
  """Rows by index, zeros where the index is out of range."""
  return x_ND.at[index].get(mode='fill', fill_value=0)


def _sum_per_token(num_tokens, y_RD, weight_A, row_A):
  """Sum over k of weight[k, t] * y[row[k, t]]: K gathers, no scatter."""
  row_KT = row_A.reshape(-1, num_tokens)
  total_TD: Any = 0.0
  for k in range(row_KT.shape[0]):
    y_TD = _rows(y_RD, row_KT[k]).astype(jnp.float32)
    if weight_A is not None:
      y_TD *= weight_A.reshape(row_KT.shape)[k][:, None]
    total_TD += y_TD
  return jnp.asarray(total_TD).astype(y_RD.dtype)


def _from_tokens(x_TD, assignment_R, num_assignments):
  """x_RD: the token of each row in a K-outermost list; zeros in padding."""
  token_R = jnp.where(
    assignment_R < num_assignments, assignment_R % x_TD.shape[0], x_TD.shape[0]
  )
  return _rows(x_TD, token_R)


@jax.custom_vjp
def _gather(x_TD, row_A, assignment_R):
  return _from_tokens(x_TD, assignment_R, row_A.shape[0])


def _gather_fwd(x_TD, row_A, assignment_R):
  keep = (row_A, jnp.zeros((x_TD.shape[0], 0)))
  return _gather(x_TD, row_A, assignment_R), keep


def _gather_bwd(keep, dx_RD):
  row_A, shape_T0 = keep
  return _sum_per_token(shape_T0.shape[0], dx_RD, None, row_A), None, None


_gather.defvjp(_gather_fwd, _gather_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _combine(num_tokens, y_RD, weight_A, row_A, assignment_R):
  del assignment_R
  return _sum_per_token(num_tokens, y_RD, weight_A, row_A)


def _combine_fwd(num_tokens, y_RD, weight_A, row_A, assignment_R):
  out_TD = _sum_per_token(num_tokens, y_RD, weight_A, row_A)
  return out_TD, (y_RD, weight_A, row_A, assignment_R)


def _combine_bwd(num_tokens, keep, dout_TD):
  y_RD, weight_A, row_A, assignment_R = keep
  weight_R = _rows(weight_A, assignment_R)
  dout_RD = _from_tokens(dout_TD, assignment_R, row_A.shape[0])
  dy_RD = (dout_RD * weight_R[:, None]).astype(y_RD.dtype)
  row_KT = row_A.reshape(-1, num_tokens)
  dweight_KT = [
    jnp.sum(_rows(y_RD, row_T).astype(jnp.float32) * dout_TD, axis=1)
    for row_T in row_KT
  ]
  dweight_A = jnp.concatenate(dweight_KT).astype(weight_A.dtype)
  return dy_RD, dweight_A, None, None


_combine.defvjp(_combine_fwd, _combine_bwd)
