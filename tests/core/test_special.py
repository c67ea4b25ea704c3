"""Values and slopes against the standard library, also inside `shard_map`."""

import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import moejax
from moejax.core import special

X = np.linspace(-6, 6, 50).astype(np.float32)
ROOT = math.sqrt(0.5)


def _bell(x):
  return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _cdf(x):
  return math.erfc(-x * ROOT) / 2


# Function -> its value and its slope at one number.
EXACT = {
  special.erfc: (
    math.erfc,
    lambda x: -2 / math.sqrt(math.pi * math.exp(2 * x * x)),
  ),
  special.normal_cdf: (_cdf, _bell),
  special.gelu: (lambda x: x * _cdf(x), lambda x: _cdf(x) + x * _bell(x)),
}
# What they stand for in JAX.
OF_JAX = {
  special.erfc: jax.lax.erfc,
  special.normal_cdf: jax.scipy.stats.norm.cdf,
  special.gelu: lambda x: jax.nn.gelu(x, approximate=False),
}


def value_and_slope(function, x):
  return jax.jvp(function, (x,), (jnp.ones_like(x),))


@pytest.mark.parametrize('function', EXACT, ids=lambda f: f.__name__)
def test_value_and_slope_inside_shard_map(function):
  mesh = jax.make_mesh(
    (2,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]
  )
  inside = jax.shard_map(
    lambda x: value_and_slope(function, x),
    mesh=mesh,
    in_specs=P('data'),
    out_specs=P('data'),
  )
  for found, exact in zip(jax.jit(inside)(X), EXACT[function], strict=True):
    want = [exact(float(x)) for x in X]
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ('function', 'dtype'),
  [
    (special.erfc, 'float32'),
    (special.erfc, 'bfloat16'),
    (special.gelu, 'float32'),
    (special.gelu, 'bfloat16'),
    (special.normal_cdf, 'float32'),
  ],
)
def test_they_are_the_functions_of_jax(function, dtype):
  """JAX 0.10's to the bit; later ones take slopes in another way."""
  x, cotangent = jnp.asarray(X, dtype), jnp.asarray(X[::-1], dtype)
  found, back = jax.vjp(function, x)
  want, want_back = jax.vjp(OF_JAX[function], x)
  np.testing.assert_array_equal(found, want)
  eps = 0 if jax.__version__.startswith('0.10.') else jnp.finfo(dtype).eps
  np.testing.assert_allclose(
    np.float32(back(cotangent)[0]),
    np.float32(want_back(cotangent)[0]),
    rtol=8 * eps,
    atol=8 * eps,
  )


def test_no_other_file_has_them_from_jax():
  """The derivatives of these fail inside `shard_map` with JAX 0.12."""
  theirs = re.compile(r'\b(lax\.erfc?|ndtri?|norm\.(log)?cdf|nn\.gelu|sinc)\b')
  package = pathlib.Path(moejax.__file__).parent
  files = {f for f in package.rglob('*.py') if theirs.search(f.read_text())}
  assert files == {package / 'core' / 'special.py'}
