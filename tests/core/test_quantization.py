"""core/quantization.py: products in int8 and fp8 against numpy."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import rounding

from moejax.core import errors, linear, quantization

NAMES = ['fp8', 'int8']
# shape of x, shape of w, number of dims that both share
FORMS = {
  'rows of vectors': ((7, 5), (5, 3), 1),
  'to heads': ((2, 6, 5), (5, 4, 3), 1),
  'from heads': ((2, 6, 4, 3), (4, 3, 5), 2),
}


def draw(seed, *shapes):
  rng = np.random.default_rng(seed)
  return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('form', FORMS)
def test_product_and_gradients_are_those_of_rounded_factors(
  form, name, platform
):
  x_shape, w_shape, contract = FORMS[form]
  x, w = draw(0, x_shape, w_shape)
  product = linear.of(platform, name)
  y, pull = jax.vjp(lambda x, w: product(x, w, contract), x, w)
  (dy,) = draw(1, y.shape)
  dx, dw = pull(dy)

  forward, backward = rounding.TYPES[name]
  depth = int(np.prod(w_shape[:contract]))
  x_RD, w_DF = x.reshape(-1, depth), w.reshape(depth, -1)
  dy_RF = dy.reshape(len(x_RD), -1)
  # One scale for each row of x and dy; of w for each column, and backward,
  # where its columns are summed over, for each row.
  want_RF = rounding.product(x_RD, w_DF, forward, forward)
  want_RD = rounding.product(dy_RF, w_DF.T, backward, forward)
  near = lambda got, want: np.testing.assert_allclose(
    np.asarray(got).reshape(want.shape), want, rtol=1e-5, atol=1e-6
  )
  near(y, want_RF)
  near(dx, want_RD)
  # The weights' gradient passes rounding straight through, from exact factors.
  near(dw, x_RD.astype(np.float64).T @ dy_RF)


def test_bfloat16_factors_give_a_bfloat16_result_of_float32_scales():
  x, w = (jnp.asarray(a, jnp.bfloat16) for a in draw(2, (4, 6), (6, 3)))
  y = linear.of('cpu', 'int8')(x, w)
  exact = [np.asarray(a, np.float32) for a in (x, w)]
  want = rounding.product(*exact, 'int8', 'int8')
  assert y.dtype == jnp.bfloat16
  np.testing.assert_array_equal(
    np.asarray(y), np.asarray(jnp.asarray(want, jnp.bfloat16))
  )


def test_int8_multiplies_integers_forward_and_for_the_rows_gradient():
  x, w = draw(3, (4, 6), (6, 3))
  product = linear.of('cpu', 'int8')
  run = jax.make_jaxpr(lambda x, w: jax.vjp(product, x, w)[1](jnp.ones((4, 3))))
  text = str(run(x, w))
  dots = [line for line in text.splitlines() if 'dot_general[' in line]
  integers = [line for line in dots if ':i32[' in line]
  assert len(integers) == 2, text


def test_a_row_of_zeros_gives_zeros():
  x, w = draw(4, (3, 6), (6, 3))
  x[1] = 0
  y = np.asarray(linear.of('cpu', 'int8')(x, w))
  assert np.all(y[1] == 0)
  assert np.all(np.isfinite(y))


def test_an_unknown_name_shows_the_nearest():
  with pytest.raises(errors.InputError, match="did you mean 'int8'"):
    linear.of('cpu', 'int_8')


def test_a_missing_package_is_one_line_with_its_installation(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  quantization.check('none')
  with pytest.raises(errors.InputError) as error:
    quantization.check('int8')
  assert str(error.value) == (
    'model.quantization=int8 needs the package qwix: '
    "pip install 'moejax[qwix]', or set model.quantization=none"
  )
