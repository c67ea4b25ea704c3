"""QUANTISED: grouped matmuls that multiply in int8 or float8, by name.

The contract is that of `grouped_matmuls`, and the names are those of
GROUPED_MATMULS. Which products are rounded, and how, is in
`core/quantization.py`: rows are scaled one by one, and so are the columns of
each expert. No scale depends on other rows, so a row has the same output
wherever it is computed.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from moejax.core import linear, quantization, varying
from moejax.moe.compute import blocks, grouped_matmuls
from moejax.moe.experts.base import Multiply

# The types of rows and of weights, once they are rounded.
Pair = tuple[str, str]


class Products(Protocol):
  """The products that make up a quantised grouped matmul."""

  @property
  def row_multiple(self) -> int:
    """See `Multiply`."""
    ...

  def rows(
    self, x_RD: jax.Array, w_EDF: jax.Array, size_E: jax.Array, types: Pair
  ) -> jax.Array:
    """y_RF in float32: rows of each group times their expert's weights."""
    ...

  def weights(
    self, x_RD: jax.Array, dy_RF: jax.Array, size_E: jax.Array, w_EDF: jax.Array
  ) -> jax.Array:
    """dw_EDF in the dtype of `w_EDF`, not quantised."""
    ...


@dataclasses.dataclass(frozen=True)
class Quantised:
  """A grouped matmul with quantised products.

  Attributes:
    products: how they are computed.
    types: of the rounded numbers.
  """

  products: Products
  types: quantization.Types

  @property
  def row_multiple(self) -> int:
    return self.products.row_multiple

  def __call__(self, x_RD, w_EDF, size_E):
    return _multiply(self, *varying.together(x_RD, w_EDF, size_E))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _multiply(how, x_RD, w_EDF, size_E):
  types = (how.types.forward, how.types.forward)
  return how.products.rows(x_RD, w_EDF, size_E, types).astype(x_RD.dtype)


def _multiply_fwd(how, x_RD, w_EDF, size_E):
  return _multiply(how, x_RD, w_EDF, size_E), (x_RD, w_EDF, size_E)


def _multiply_bwd(how, kept, dy_RF):
  x_RD, w_EDF, size_E = kept
  types = (how.types.backward, how.types.forward)
  dx_RD = how.products.rows(dy_RF, w_EDF.swapaxes(1, 2), size_E, types)
  dw_EDF = how.products.weights(x_RD, dy_RF, size_E, w_EDF)
  return dx_RD.astype(x_RD.dtype), dw_EDF, None


_multiply.defvjp(_multiply_fwd, _multiply_bwd)


@dataclasses.dataclass(frozen=True)
class _WithGradient:
  """Products whose weights' gradient is that of a plain grouped matmul.

  Attributes:
    plain: the grouped matmul.
  """

  plain: Multiply

  @property
  def row_multiple(self) -> int:
    return self.plain.row_multiple

  def weights(self, x_RD, dy_RF, size_E, w_EDF):
    _, pull = jax.vjp(lambda w_EDF: self.plain(x_RD, w_EDF, size_E), w_EDF)
    return pull(dy_RF)[0]


@dataclasses.dataclass(frozen=True)
class Reference(_WithGradient):
  """Rounded numbers as float32, through the reference: the oracle."""

  plain: Multiply = grouped_matmuls.ReferenceMatmul()

  def rows(self, x_RD, w_EDF, size_E, types):
    scaled = lambda q: q.qvalue.astype(jnp.float32) * q.scale
    x_RD = scaled(quantization.quantise(x_RD, types[0], (0,)))
    w_EDF = scaled(quantization.quantise(w_EDF, types[1], (0, 2)))
    with jax.default_matmul_precision('highest'):
      return self.plain(x_RD, w_EDF, size_E)


@dataclasses.dataclass(frozen=True)
class Batched(_WithGradient):
  """One batched product, for groups that all have equally many rows."""

  plain: Multiply = grouped_matmuls.Batched()

  def rows(self, x_RD, w_EDF, size_E, types):
    del size_E
    x_ECD = x_RD.reshape(w_EDF.shape[0], -1, x_RD.shape[1])
    y_ECF = quantization.dot(x_ECD, w_EDF, types, batch=1)
    return y_ECF.reshape(x_RD.shape[0], -1)


@dataclasses.dataclass(frozen=True)
class RaggedDot(_WithGradient):
  """qwix's `ragged_dot`, by `jax.lax.ragged_dot` of the rounded numbers."""

  plain: Multiply = grouped_matmuls.RaggedDot()

  def rows(self, x_RD, w_EDF, size_E, types):
    import qwix  # an extra

    y_RF = qwix.ragged_dot(
      quantization.quantise(x_RD, types[0], (0,)),
      quantization.quantise(w_EDF, types[1], (0, 2)),
      size_E,
    )
    used_R1 = jnp.arange(x_RD.shape[0])[:, None] < jnp.sum(size_E)
    return jnp.where(used_R1, y_RF, 0)


@dataclasses.dataclass(frozen=True)
class Blocked:
  """A loop over pieces of rows, each of one expert, for CPU.

  Attributes:
    cut: how groups of rows are cut into pieces.
  """

  cut: blocks.Blocks = blocks.Blocks()

  @property
  def row_multiple(self) -> int:
    return self.cut.block

  def rows(self, x_RD, w_EDF, size_E, types):
    x_RD = quantization.quantise(x_RD, types[0], (0,))
    w_EDF = quantization.quantise(w_EDF, types[1], (0, 2))
    sums = quantization.sums_in(types)

    def visit(expert, pieces, y_RF):
      w_DF = blocks.weights(w_EDF.qvalue, expert, w_EDF.qvalue.dtype)
      scale_1F = blocks.weights(w_EDF.scale, expert, jnp.float32)

      def body(start, length, y_RF):
        x_BD = blocks.read(x_RD.qvalue, start, length)
        dims = ((1,), (0,)), ((), ())
        y_BF = jax.lax.dot_general(
          x_BD, w_DF, dims, preferred_element_type=sums
        )
        scale_B1 = blocks.read(x_RD.scale, start, length)
        return blocks.write(y_RF, y_BF * scale_B1 * scale_1F, start)

      return pieces(body, y_RF)

    shape = x_RD.qvalue.shape[0], w_EDF.qvalue.shape[2]
    y_RF = varying.like(jnp.zeros(shape, jnp.float32), x_RD.qvalue)
    return self.cut.each_expert(size_E, shape[0], visit, y_RF)

  def weights(self, x_RD, dy_RF, size_E, w_EDF):
    def visit(expert, pieces, dw_EDF):
      def body(start, length, dw_DF):
        x_BD, dy_BF = (blocks.read(z, start, length) for z in (x_RD, dy_RF))
        return dw_DF + linear.over_rows(x_BD, dy_BF)

      dw_DF = jnp.zeros(w_EDF.shape[1:], jnp.float32)
      dw_DF = pieces(body, varying.like(dw_DF, x_RD))
      return blocks.set_weights(dw_EDF, dw_DF, expert)

    dw_EDF = varying.like(jnp.zeros_like(w_EDF), x_RD)
    return self.cut.each_expert(size_E, x_RD.shape[0], visit, dw_EDF)


# By name, the grouped matmuls that can be quantised.
QUANTISED: dict[str, Callable[[], Products]] = {
  'batched': Batched,
  'blocked': Blocked,
  'ragged_dot': RaggedDot,
  'reference': Reference,
}
