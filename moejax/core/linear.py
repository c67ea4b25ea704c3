"""Products of activations and weights, each as the platform multiplies fast.

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
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from moejax.core import varying

# What `linear` returns, to those who choose what is kept for a backward pass.
NAME = 'matmul'


def linear(x: jax.Array, w: jax.Array, contract: int = 1) -> jax.Array:
  """The last dims of `x` times the first of `w`, in the type of `x`.

  Sums are float32 on CPUs, and what the platform takes elsewhere.

  Args:
    x: activations [..., D].
    w: weights [D, ...], in the type of `x`.
    contract: number of dims of D.
  """
  y = _linear(contract, *varying.together(x, w))
  return checkpoint_name(y, NAME)


def over_rows(a: jax.Array, b: jax.Array, rows: int = 1) -> jax.Array:
  """The sum over rows of their outer products: a^T b, in float32.

  Args:
    a: [R, ...], R of `rows` dims.
    b: [R, ...], the same R.
    rows: number of the first dims, over which is summed.
  """
  return jax.lax.platform_dependent(
    a,
    b,
    cpu=functools.partial(over_rows_on_cpu, rows=rows),
    default=functools.partial(
      _over_rows, rows=rows, preferred_element_type=jnp.float32
    ),
  )


def over_rows_on_cpu(a: jax.Array, b: jax.Array, rows: int = 1) -> jax.Array:
  """`over_rows` where the platform is known to be a CPU."""
  last = rows - 1
  half = a.shape[last] // 2
  if not half or a.dtype == jnp.float32:
    return _over_rows(a, b, rows, preferred_element_type=jnp.float32)
  parts = jnp.split(a, [half], axis=last)
  order = (*range(rows, a.ndim), *range(rows))
  a = jnp.concatenate([part.transpose(order) for part in parts], axis=-1)
  return jnp.tensordot(a, b, rows, preferred_element_type=jnp.float32)


def _over_rows(a, b, rows, **options):
  dims = list(range(rows))
  return jnp.tensordot(a, b, (dims, dims), **options)


def _in_float32(product, *factors):
  y = product(*factors, preferred_element_type=jnp.float32)
  return y.astype(factors[0].dtype)


def _by_platform(product, *factors):
  """A product whose result has the type of its factors."""
  return jax.lax.platform_dependent(
    *factors, cpu=functools.partial(_in_float32, product), default=product
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _linear(contract, x, w):
  return _by_platform(functools.partial(jnp.tensordot, axes=contract), x, w)


def _linear_fwd(contract, x, w):
  return _linear(contract, x, w), (x, w)


def _linear_bwd(contract, kept, dy):
  x, w = kept
  rows = x.ndim - contract
  out = w.ndim - contract
  dims = list(range(rows, dy.ndim)), list(range(contract, contract + out))
  dx = _by_platform(functools.partial(jnp.tensordot, axes=dims), dy, w)
  dw = jax.lax.platform_dependent(
    x,
    dy,
    cpu=functools.partial(_rounded_over_rows, rows=rows),
    default=functools.partial(_over_rows, rows=rows),
  )
  return dx, dw


def _rounded_over_rows(x, dy, rows):
  return over_rows_on_cpu(x, dy, rows).astype(x.dtype)


_linear.defvjp(_linear_fwd, _linear_bwd)
