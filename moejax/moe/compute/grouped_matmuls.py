"""GROUPED_MATMULS: one matmul per expert, over rows grouped by expert.

  multiply = GROUPED_MATMULS['blocked']()
  y_RF = multiply(x_RD, w_EDF, size_E)

multiplies the rows of group e by w_EDF[e]. Groups are contiguous from row 0, in
the order of the experts; every size is a multiple of `multiply.row_multiple`;
rows beyond the last group give zeros. Gradients are exact, and zero for an
expert without rows. Sums are in float32 and the result has the dtype of `x_RD`.
The weights may have another dtype: they are cast where they are used, and their
gradient has their own.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from moejax.core import linear, varying
from moejax.moe.compute import (
  blocks,
  pallas_grouped_matmul,
  triton_grouped_matmul,
)
from moejax.moe.experts.base import Multiply


@dataclasses.dataclass(frozen=True)
class ReferenceMatmul:
  """Every row times every expert, then masked: the oracle of the others."""

  row_multiple: int = 1

  def __call__(self, x_RD, w_EDF, size_E):
    end_E = jnp.cumsum(size_E)
    row_R1 = jnp.arange(x_RD.shape[0])[:, None]
    mask_RE = (row_R1 < end_E) & (row_R1 >= end_E - size_E)
    y_REF = jnp.einsum(
      'rd,edf->ref',
      x_RD,
      w_EDF.astype(x_RD.dtype),
      preferred_element_type=jnp.float32,
    )
    y_RF = jnp.sum(jnp.where(mask_RE[..., None], y_REF, 0), axis=1)
    return y_RF.astype(x_RD.dtype)


@dataclasses.dataclass(frozen=True)
class RaggedDot:
  """`jax.lax.ragged_dot`: the fallback for accelerators.

  On CPU it is 60 times slower than a dense product of the same size. Compiled
  for TPU, its output and the gradient of the rows are kernels, but the gradient
  of the weights multiplies all rows with each expert: E times the work. On
  NVIDIA GPUs all three products do (XLA of JAX 0.10 and 0.12).
  """

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
  """A loop over pieces of rows, each of one expert (see `blocks`), for CPU.

  It defines its own gradient, which accumulates dW in place. The gradient that
  JAX derives from a loop carries a whole weight tensor through every iteration.

  Attributes:
    cut: how groups of rows are cut into pieces.
  """

  cut: blocks.Blocks = blocks.Blocks()

  @property
  def row_multiple(self) -> int:
    return self.cut.block

  def __call__(self, x_RD, w_EDF, size_E):
    return _blocked(self.cut, *varying.together(x_RD, w_EDF, size_E))


@dataclasses.dataclass(frozen=True)
class Batched:
  """One batched matmul, for groups that all have the same number of rows."""

  row_multiple: int = 1

  def __call__(self, x_RD, w_EDF, size_E):
    del size_E
    x_ECD = x_RD.reshape(w_EDF.shape[0], -1, x_RD.shape[1])
    y_ECF = jnp.einsum(
      'ecd,edf->ecf',
      x_ECD,
      w_EDF.astype(x_RD.dtype),
      preferred_element_type=jnp.float32,
    )
    return y_ECF.reshape(x_RD.shape[0], -1).astype(x_RD.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blocked(cut, x_RD, w_EDF, size_E):
  def visit(expert, pieces, y_RF):
    w_DF = blocks.weights(w_EDF, expert, x_RD.dtype)

    def body(start, length, y_RF):
      x_BD = blocks.read(x_RD, start, length)
      return blocks.write(y_RF, blocks.dot(x_BD, w_DF, 1, 0), start)

    return pieces(body, y_RF)

  y_RF = jnp.zeros((x_RD.shape[0], w_EDF.shape[2]), x_RD.dtype)
  y_RF = varying.like(y_RF, x_RD)
  return cut.each_expert(size_E, x_RD.shape[0], visit, y_RF)


def _blocked_fwd(cut, x_RD, w_EDF, size_E):
  return _blocked(cut, x_RD, w_EDF, size_E), (x_RD, w_EDF, size_E)


def _blocked_bwd(cut, kept, dy_RF):
  x_RD, w_EDF, size_E = kept

  def visit(expert, pieces, carry):
    w_DF = blocks.weights(w_EDF, expert, x_RD.dtype)

    def body(start, length, carry):
      dx_RD, dw_DF = carry
      dy_BF = blocks.read(dy_RF, start, length)
      dx_RD = blocks.write(dx_RD, blocks.dot(dy_BF, w_DF, 1, 1), start)
      x_BD = blocks.read(x_RD, start, length)
      return dx_RD, dw_DF + linear.over_rows(x_BD, dy_BF)

    dx_RD, dw_EDF = carry
    dw_DF = varying.like(jnp.zeros(w_DF.shape, jnp.float32), x_RD)
    dx_RD, dw_DF = pieces(body, (dx_RD, dw_DF))
    return dx_RD, blocks.set_weights(dw_EDF, dw_DF, expert)

  zeros_like = lambda array: varying.like(jnp.zeros_like(array), x_RD)
  carry = (zeros_like(x_RD), zeros_like(w_EDF))
  dx_RD, dw_EDF = cut.each_expert(size_E, x_RD.shape[0], visit, carry)
  return dx_RD, dw_EDF, None


_blocked.defvjp(_blocked_fwd, _blocked_bwd)

GROUPED_MATMULS: dict[str, Callable[[], Multiply]] = {
  'batched': Batched,
  'blocked': Blocked,
  'megablox': pallas_grouped_matmul.Megablox,
  'ragged_dot': RaggedDot,
  'reference': ReferenceMatmul,
  'tokamax': pallas_grouped_matmul.Tokamax,
  'triton': triton_grouped_matmul.Triton,
}
