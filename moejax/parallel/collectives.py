"""Ragged all-to-all: rows move between devices, any number to each.

`move` is `jax.lax.ragged_all_to_all` with a gradient: the output's gradient
moves back by the reversed plan. XLA for CPU has no ragged all-to-all. There a
replacement gathers all rows and selects from them, so that all code that uses
`move` runs, and is tested, on fake CPU devices.

Example, 2 devices along the axis 'expert':

  device 0 has rows a b c, and sends 1 to device 0 and 2 to device 1
  device 1 has rows d e f, and sends 2 to device 0 and 1 to device 1
  count_PP    [[1, 2], [2, 1]]           [from, to]
  device 0 receives a d e, device 1 receives b c f

P is the number of devices along the axis, A the number of rows before, N all
other dimensions of a row, R the number of rows that a device receives.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp

from moejax.core import varying


@flax.struct.dataclass
class TransferPlan:
  """The rows that each device sends to each; the plan is equal on all devices.

  Attributes:
    count_PP: int32 [from, to], number of rows sent.
    first_PP: int32 [from, to], index of the first of these at the sender.
    place_PP: int32 [from, to], index of the first of these at the receiver.
  """

  count_PP: jax.Array
  first_PP: jax.Array
  place_PP: jax.Array

  def reversed(self) -> 'TransferPlan':
    """The plan that moves the rows back."""
    return TransferPlan(self.count_PP.T, self.place_PP.T, self.first_PP.T)


def plan(size_P: jax.Array, num_rows: int, axis: str) -> TransferPlan:
  """The plan for rows that are sorted by receiver.

  Args:
    size_P: int32, number of this device's rows for each receiver.
    num_rows: number of rows that every receiver has room for. Rows beyond that
      number, the last rows of the last senders, are not sent.
    axis: mesh axis along which rows move; call inside `shard_map`.
  """
  size_PP = jax.lax.all_gather(size_P, axis, axis=0)
  first_PP = jnp.cumsum(size_PP, axis=1) - size_PP
  before_PP = jnp.cumsum(size_PP, axis=0) - size_PP
  count_PP = jnp.clip(num_rows - before_PP, 0, size_PP)
  place_PP = jnp.minimum(before_PP, num_rows)
  return TransferPlan(count_PP, first_PP, place_PP)


def move(
  x_AN: jax.Array, transfer: TransferPlan, num_rows: int, axis: str
) -> jax.Array:
  """Moves rows by a plan, inside `shard_map`; differentiable.

  Args:
    x_AN: this device's rows.
    transfer: the plan.
    num_rows: number of rows of the result.
    axis: mesh axis along which rows move.

  Returns:
    [num_rows, N]: the rows that this device receives, then rows of zeros.
  """
  x_AN, *leaves = varying.together(
    x_AN, transfer.count_PP, transfer.first_PP, transfer.place_PP
  )
  return _move(num_rows, axis, x_AN, *leaves)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _move(num_rows, axis, x_AN, count_PP, first_PP, place_PP):
  run = lambda ragged: functools.partial(ragged, num_rows, axis)
  return jax.lax.platform_dependent(
    x_AN,
    count_PP,
    first_PP,
    place_PP,
    cpu=run(_gather_and_select),
    default=run(_ragged),
  )


def _ragged(num_rows, axis, x_AN, count_PP, first_PP, place_PP):
  me = jax.lax.axis_index(axis)
  out_RN = jnp.zeros((num_rows, *x_AN.shape[1:]), x_AN.dtype)
  return jax.lax.ragged_all_to_all(
    x_AN,
    varying.like(out_RN, x_AN),
    first_PP[me],
    count_PP[me],
    place_PP[me],
    count_PP[:, me],
    axis_name=axis,
  )


def _gather_and_select(num_rows, axis, x_AN, count_PP, first_PP, place_PP):
  """The result of `_ragged`, for CPU."""
  me = jax.lax.axis_index(axis)
  all_PAN = jax.lax.all_gather(x_AN, axis, axis=0)
  count_P1, place_P1 = count_PP[:, me, None], place_PP[:, me, None]
  row_R = jnp.arange(num_rows)
  hit_PR = (row_R >= place_P1) & (row_R < place_P1 + count_P1)
  from_R = jnp.argmax(hit_PR, axis=0)
  index_R = first_PP[from_R, me] + row_R - place_PP[from_R, me]
  index_R = jnp.where(hit_PR.any(axis=0), index_R, x_AN.shape[0])
  return all_PAN.at[from_R, index_R].get(mode='fill', fill_value=0)


def _move_fwd(num_rows, axis, x_AN, count_PP, first_PP, place_PP):
  out_RN = _move(num_rows, axis, x_AN, count_PP, first_PP, place_PP)
  shape_A0 = jnp.zeros((x_AN.shape[0], 0))  # a residual must be an array
  return out_RN, (shape_A0, count_PP, first_PP, place_PP)


def _move_bwd(num_rows, axis, residuals, dout_RN):
  del num_rows
  shape_A0, *leaves = residuals
  back = TransferPlan(*leaves).reversed()
  dx_AN = move(dout_RN, back, shape_A0.shape[0], axis)
  return dx_AN, None, None, None


_move.defvjp(_move_fwd, _move_bwd)
