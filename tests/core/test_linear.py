"""core/linear.py: products against numpy in float64, and how they compile."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core import linear

# shape of x, shape of w, number of dims that both share
FORMS = {
  'rows of vectors': ((7, 5), (5, 3), 1),
  'to heads': ((2, 6, 5), (5, 4, 3), 1),
  'from heads': ((2, 6, 4, 3), (4, 3, 5), 2),
  'one row': ((1, 5), (5, 3), 1),
  'one token': ((3, 1, 5), (5, 3), 1),
}
DTYPES = {'float32': 1e-5, 'bfloat16': 2e-2}


def draw(seed, *shapes):
  rng = np.random.default_rng(seed)
  return [rng.standard_normal(shape) for shape in shapes]


def exact(*arrays):
  return [np.asarray(a, np.float64) for a in arrays]


def close(array, wanted, tolerance):
  wanted = np.asarray(wanted)
  scale = np.abs(wanted).max()
  np.testing.assert_allclose(
    np.asarray(array, np.float64) / scale, wanted / scale, atol=tolerance
  )


@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'cuda'])
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('form', FORMS)
def test_value_and_gradients_equal_numpy(form, dtype, platform):
  x_shape, w_shape, contract = FORMS[form]
  x, w = (jnp.asarray(a, dtype) for a in draw(0, x_shape, w_shape))
  y, pull = jax.vjp(
    jax.jit(functools.partial(linear.of(platform), contract=contract)), x, w
  )
  (dy,) = (jnp.asarray(a, dtype) for a in draw(1, y.shape))
  dx, dw = pull(dy)

  assert {a.dtype for a in (y, dx, dw)} == {jnp.dtype(dtype)}
  ex, ew, edy = exact(x, w, dy)
  rows, out = ex.ndim - contract, ew.ndim - contract
  close(y, np.tensordot(ex, ew, contract), DTYPES[dtype])
  over_out = [tuple(range(-out, 0))] * 2
  close(dx, np.tensordot(edy, ew, over_out), DTYPES[dtype])
  over_rows = [tuple(range(rows))] * 2
  close(dw, np.tensordot(ex, edy, over_rows), DTYPES[dtype])


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('rows', [1, 2])
def test_over_rows_sums_outer_products_in_float32(rows, dtype):
  a, b = (jnp.asarray(x, dtype) for x in draw(2, (9, 8, 4), (9, 8, 3)))
  if rows == 1:
    a, b = a[:, 0], b[:, 0]
  got = jax.jit(functools.partial(linear.over_rows, rows=rows))(a, b)
  assert got.dtype == jnp.float32
  dims = [tuple(range(rows))] * 2
  close(got, np.tensordot(*exact(a, b), dims), 1e-5)


def transposed_products(function, *arguments):
  """The products of a compiled function whose left factor is transposed."""
  text = jax.jit(function).lower(*arguments).compile().as_text()
  products = [line for line in text.splitlines() if re.search(r' dot\(', line)]
  assert products
  return [line for line in products if 'lhs_contracting_dims={0}' in line]


def test_gradients_in_bfloat16_have_the_form_that_cpus_multiply_fast():
  x, w = (jnp.asarray(a, 'bfloat16') for a in draw(0, (64, 32), (32, 16)))
  loss = lambda product: lambda x, w: product(x, w).astype(jnp.float32).sum()
  gradient = lambda product: jax.grad(loss(product), argnums=(0, 1))
  # That plain products need this is seen here too.
  plain = lambda x, w: jnp.sin(linear.plain(x, w))
  ours = lambda x, w: jnp.sin(linear.of('cpu')(x, w))
  assert transposed_products(gradient(plain), x, w)
  assert not transposed_products(gradient(ours), x, w)
