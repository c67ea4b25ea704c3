"""The index of the largest number is that of `argmax`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core import best


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_it_is_the_first_of_equal_ones(dtype):
  x = np.random.default_rng(0).integers(-3, 3, (40, 3, 7))
  x = x.astype(float)
  x[0], x[1, 0, 2:] = -np.inf, 9
  found = jax.jit(best.last_axis)(jnp.asarray(x, dtype))
  assert found.dtype == jnp.int32
  np.testing.assert_array_equal(found[..., 0], np.argmax(x, axis=-1))


def test_an_index_of_no_order_is_one_of_the_axis():
  x = jnp.array([[1.0, jnp.nan, 2.0], [-jnp.inf] * 3])
  np.testing.assert_array_equal(best.last_axis(x)[:, 0], [2, 0])
