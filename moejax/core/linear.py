"""Products of activations and weights, each as the platform multiplies fast.

  linear = of('cpu')
  y_BLF = linear(x_BLD, w_DF)
  y_BLHK = linear(x_BLD, w_DHK)
  out_BLD = linear(o_BLHK, w_HKD, contract=2)
  dw_DF = over_rows(x_TD, dy_TF)

XLA has kernels for bfloat16 on CPUs, and calls them only for some ways to write
a product. All others are computed in float32, after a conversion. By
measurement (2,048 rows, AVX512-BF16, two cores):

- Up to JAX 0.10, a product whose result is bfloat16 is computed in float32; one
  that asks for a float32 result and rounds it is twice as fast.
- A left factor that is transposed, as in every gradient of weights, sends the
  product to float32, also in JAX 0.12. `over_rows` transposes the factor in
  memory first, which makes it up to twice as fast. XLA would fold a plain
  transpose back into the product, but not one of two halves.

Other platforms get the plain products: their libraries know all forms.

`of(platform, quantization)` is the product in int8 or float8 of
`core/quantization.py`.
"""

import functools
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from moejax.core import quantization as quantizations
from moejax.core import varying

# What `on_cpu` returns, to those who choose what is kept for a backward pass.
NAME = 'matmul'


class Linear(Protocol):
  """A product of activations and weights."""

  def __call__(
    self, x: jax.Array, w: jax.Array, contract: int = 1
  ) -> jax.Array:
    """The last dims of `x` times the first of `w`, in the type of `x`.

    Args:
      x: activations [..., D].
      w: weights [D, ...], in the type of `x`.
      contract: number of dims of D.
    """
    ...


def of(platform: str, quantization: str = quantizations.NONE) -> Linear:
  """The product of a platform.

  Args:
    platform: 'cpu', 'tpu' ...
    quantization: an entry of QUANTIZATIONS.
  """
  exact = _LINEAR.get(platform, plain)
  types = quantizations.types_of(quantization)
  if types is None:
    return exact
  return quantizations.Product(types, exact, NAME)


def plain(x: jax.Array, w: jax.Array, contract: int = 1) -> jax.Array:
  """See `Linear`."""
  return jnp.tensordot(x, w, contract)


def on_cpu(x: jax.Array, w: jax.Array, contract: int = 1) -> jax.Array:
  """See `Linear`; sums in float32."""
  y = _on_cpu(contract, *varying.together(x, w))
  return checkpoint_name(y, NAME)


_LINEAR: dict[str, Linear] = {'cpu': on_cpu}


def over_rows(a: jax.Array, b: jax.Array, rows: int = 1) -> jax.Array:
  """The sum over rows of their outer products on a CPU: a^T b, in float32.

  Args:
    a: [R, ...], R of `rows` dims.
    b: [R, ...], the same R.
    rows: number of the first dims, over which is summed.
  """
  half = a.shape[rows - 1] // 2
  if not half or a.dtype == jnp.float32:
    dims = list(range(rows))
    return jnp.tensordot(a, b, (dims, dims), preferred_element_type=jnp.float32)
  parts = jnp.split(a, [half], axis=rows - 1)
  order = (*range(rows, a.ndim), *range(rows))
  a = jnp.concatenate([part.transpose(order) for part in parts], axis=-1)
  return jnp.tensordot(a, b, rows, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _on_cpu(contract, x, w):
  y = jnp.tensordot(x, w, contract, preferred_element_type=jnp.float32)
  return y.astype(x.dtype)


def _on_cpu_fwd(contract, x, w):
  return _on_cpu(contract, x, w), (x, w)


def _on_cpu_bwd(contract, kept, dy):
  x, w = kept
  rows = x.ndim - contract
  dims = list(range(rows, dy.ndim)), list(range(contract, w.ndim))
  dx = jnp.tensordot(dy, w, dims, preferred_element_type=jnp.float32)
  return dx.astype(x.dtype), over_rows(x, dy, rows).astype(w.dtype)


_on_cpu.defvjp(_on_cpu_fwd, _on_cpu_bwd)
