"""QUANTIZATIONS: products of layers in int8 or float8, by name.

  y_RF = x_RD w_DF        x by row, w by column, in `forward`        quantised
  dx_RD = dy_RF w_DF^T    dy by row in `backward`, w by row in
                          `forward`                                  quantised
  dw_DF = x_RD^T dy_RF    in the type of x                       not quantised

A factor is divided by a scale for each of its rows or columns, so that its
largest number becomes the largest of the type, and rounded to the nearest. The
product is computed on the rounded numbers, summed in int32 or float32, and
multiplied by both scales. Rounding counts as the identity in the gradient
(straight-through). The weights' gradient is a sum over all tokens of a batch,
the longest of the three, and keeps its precision, as in SwitchBack (arXiv
2304.13013, section 2). float8 is E4M3 for activations and weights, and E5M2 for
gradients (arXiv 2209.05433, section 3).

A scale belongs to one row or column, so no other token changes it. Where a mesh
splits the dimension that is summed over, as `model` does with the hidden width
of experts, each device scales its own part.

Weights stay as they are: they are rounded at each product. The package qwix
rounds and multiplies.
"""

import dataclasses
import functools
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from moejax.core import errors, table

# qwix makes the largest number 127.5, halfway between two integers, where the
# last bit of a scale decides. With this factor it is 127.
_CALIBRATIONS = {'int8': f'absmax,{127.5 / 127}'}

NONE = 'none'
PACKAGE = 'qwix'


@dataclasses.dataclass(frozen=True)
class Types:
  """The types of a quantised product.

  Attributes:
    forward: of activations and weights.
    backward: of the gradient of a product's result.
  """

  forward: str
  backward: str


QUANTIZATIONS: dict[str, Types | None] = {
  NONE: None,
  'int8': Types('int8', 'int8'),
  'fp8': Types('float8_e4m3fn', 'float8_e5m2'),
}


def types_of(name: str) -> Types | None:
  """The types of an entry of QUANTIZATIONS; None for products as they are."""
  return table.lookup('model.quantization', QUANTIZATIONS, name)


def check(name: str) -> None:
  """Raises InputError if a quantisation needs a package that is not there."""
  if types_of(name) is not None and importlib.util.find_spec(PACKAGE) is None:
    raise errors.InputError(
      f'model.quantization={name} needs the package {PACKAGE}: '
      f"pip install 'moejax[{PACKAGE}]', or set model.quantization={NONE}"
    )


def quantise(x: jax.Array, dtype: str, dims: tuple[int, ...]) -> Any:
  """A rounded array with its scales, as qwix has them: `qvalue` and `scale`.

  Args:
    x: the array.
    dtype: type of the rounded numbers.
    dims: dimensions along which each place has a scale of its own; over the
      others one is shared.
  """
  import qwix  # an extra

  return qwix.quantize(
    x.astype(jnp.float32),  # the type of the scales
    dtype,
    channelwise_axes=dims,
    calibration_method=_CALIBRATIONS.get(dtype, 'absmax'),
  )


def dot(
  a: jax.Array, b: jax.Array, types: tuple[str, str], batch: int = 0
) -> jax.Array:
  """float32 products [B, M, N] of a [B, M, K] and b [B, K, N], quantised.

  Args:
    a: scaled by row.
    b: scaled by column.
    types: of a and of b, once they are rounded.
    batch: number of dimensions of B.
  """
  import qwix  # an extra

  own = tuple(range(batch))
  return qwix.dot_general(
    quantise(a, types[0], (*own, batch)),
    quantise(b, types[1], (*own, batch + 1)),
    (((batch + 1,), (batch,)), (own, own)),
  )


def sums_in(types: tuple[str, str]) -> Any:
  """The type in which products of two types are summed."""
  integers = all(jnp.issubdtype(dtype, jnp.integer) for dtype in types)
  return jnp.int32 if integers else jnp.float32


@dataclasses.dataclass(frozen=True)
class Product:
  """A quantised `linear.Linear`.

  Attributes:
    types: of its factors.
    exact: the product that is not quantised, for the weights' gradient.
    name: what the result is called for policies of rematerialisation.
  """

  types: Types
  exact: Any
  name: str

  def __call__(
    self, x: jax.Array, w: jax.Array, contract: int = 1
  ) -> jax.Array:
    """See `linear.Linear`."""
    depth = w.shape[:contract]
    rows, columns = x.shape[: x.ndim - contract], w.shape[contract:]
    size = 1
    for dim in depth:
      size *= dim
    y_RF = _product(self, x.reshape(-1, size), w.reshape(size, -1))
    return checkpoint_name(y_RF.reshape(*rows, *columns), self.name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(how, x_RD, w_DF):
  forward = how.types.forward
  return dot(x_RD, w_DF, (forward, forward)).astype(x_RD.dtype)


def _product_fwd(how, x_RD, w_DF):
  return _product(how, x_RD, w_DF), (x_RD, w_DF)


def _product_bwd(how, kept, dy_RF):
  x_RD, w_DF = kept
  dx_RD = dot(dy_RF, w_DF.T, (how.types.backward, how.types.forward))
  _, pull = jax.vjp(lambda w_DF: how.exact(x_RD, w_DF), w_DF)
  return dx_RD.astype(x_RD.dtype), *pull(dy_RF)


_product.defvjp(_product_fwd, _product_bwd)
