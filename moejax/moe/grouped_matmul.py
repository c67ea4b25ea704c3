"""One matmul per expert over rows grouped by expert: one contract, a table.

  multiply = choose('auto', backend)      # an entry of GROUPED_MATMULS
  y_RF = multiply(x_RD, w_EDF, size_E)

Group e's rows times w_EDF[e]. The groups are contiguous from row 0 in the order
of the experts, every size is a multiple of `multiply.row_multiple`, and rows
beyond the last group give zeros. Gradients are exact, and zero for an expert
without rows. Sums are made in float32; the result has the dtype of `x_RD`.
"""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp

from moejax.core import table
from moejax.core import varying


@dataclasses.dataclass(frozen=True)
class Reference:
  """Slow and obvious: every row times every expert, then masked."""

  row_multiple: int = 1

  def __call__(self, x_RD, w_EDF, size_E):
    end_E = jnp.cumsum(size_E)
    row_R1 = jnp.arange(x_RD.shape[0])[:, None]
    mask_RE = (row_R1 < end_E) & (row_R1 >= end_E - size_E)
    y_REF = jnp.einsum(
      'rd,edf->ref', x_RD, w_EDF, preferred_element_type=jnp.float32
    )
    y_RF = jnp.sum(jnp.where(mask_RE[..., None], y_REF, 0), axis=1)
    return y_RF.astype(x_RD.dtype)


@dataclasses.dataclass(frozen=True)
class RaggedDot:
  """`jax.lax.ragged_dot`: for TPU and GPU. On CPU it is 60 times too slow."""

  row_multiple: int = 1

  def __call__(self, x_RD, w_EDF, size_E):
    y_RF = jax.lax.ragged_dot(
      x_RD,
      w_EDF.astype(x_RD.dtype),
      size_E,
      preferred_element_type=jnp.float32,
    )
    used_R1 = jnp.arange(x_RD.shape[0])[:, None] < jnp.sum(size_E)
    return jnp.where(used_R1, y_RF, 0).astype(x_RD.dtype)


@dataclasses.dataclass(frozen=True)
class Blocked:
  """A loop over blocks of rows, each of one expert; only used blocks run.

  The weight gradient is accumulated in place, block by block.
  """

  block: int = 128

  @property
  def row_multiple(self) -> int:
    return self.block

  def __call__(self, x_RD, w_EDF, size_E):
    x_RD, w_EDF, size_E = varying.together(x_RD, w_EDF, size_E)
    return _blocked(self.block, x_RD, w_EDF.astype(x_RD.dtype), size_E)


def _dot(a, b, a_dim, b_dim):
  return jax.lax.dot_general(
    a, b, (((a_dim,), (b_dim,)), ((), ())), preferred_element_type=jnp.float32
  )


def _each_block(block, size_E, body, carry):
  """Runs carry = body(row, expert, carry) over the blocks in use."""
  end_E = jnp.cumsum(size_E) // block

  def step(index, carry):
    expert = jnp.searchsorted(end_E, index, side='right')
    return body(index * block, expert, carry)

  return jax.lax.fori_loop(0, end_E[-1], step, carry)


def _blocked_impl(block, x_RD, w_EDF, size_E, w_dim):
  def body(row, expert, y_RF):
    x_BD = jax.lax.dynamic_slice_in_dim(x_RD, row, block)
    w_DF = jax.lax.dynamic_index_in_dim(w_EDF, expert, keepdims=False)
    y_BF = _dot(x_BD, w_DF, 1, w_dim).astype(y_RF.dtype)
    return jax.lax.dynamic_update_slice_in_dim(y_RF, y_BF, row, 0)

  y_RF = jnp.zeros((x_RD.shape[0], w_EDF.shape[2 - w_dim]), x_RD.dtype)
  return _each_block(block, size_E, body, varying.match(y_RF, x_RD))


def _blocked(block, x_RD, w_EDF, size_E):
  @jax.custom_vjp
  def run(x_RD, w_EDF, size_E):
    return _blocked_impl(block, x_RD, w_EDF, size_E, 0)

  def fwd(x_RD, w_EDF, size_E):
    return run(x_RD, w_EDF, size_E), (x_RD, w_EDF, size_E)

  def bwd(keep, dy_RF):
    x_RD, w_EDF, size_E = keep
    dx_RD = _blocked_impl(block, dy_RF, w_EDF, size_E, 1)

    def body(row, expert, dw_EDF):
      x_BD = jax.lax.dynamic_slice_in_dim(x_RD, row, block)
      dy_BF = jax.lax.dynamic_slice_in_dim(dy_RF, row, block)
      return dw_EDF.at[expert].add(_dot(x_BD, dy_BF, 0, 0))

    dw_EDF = varying.match(jnp.zeros(w_EDF.shape, jnp.float32), x_RD)
    dw_EDF = _each_block(block, size_E, body, dw_EDF)
    return dx_RD, dw_EDF.astype(w_EDF.dtype), None

  run.defvjp(fwd, bwd)
  return run(x_RD, w_EDF, size_E)


GROUPED_MATMULS: dict[str, Callable] = {
  'reference': Reference,
  'blocked': Blocked,
  'ragged_dot': RaggedDot,
}

_AUTO = {'cpu': 'blocked', 'tpu': 'ragged_dot', 'gpu': 'ragged_dot'}


def choose(name: str, backend: str):
  """The grouped matmul called `name`; 'auto' goes by `jax.default_backend()`."""
  if name == 'auto':
    name = _AUTO.get(backend, 'blocked')
  return table.lookup('grouped matmul', GROUPED_MATMULS, name)()
