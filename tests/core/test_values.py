import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny
from jax.sharding import PartitionSpec

from moejax.core import values
from moejax.parallel import mesh as meshes

RNG = np.random.default_rng(0)
X_N = RNG.normal(size=24).astype(np.float32)
WEIGHT_N = RNG.integers(0, 3, 24).astype(np.float32)


def some(x_N, weight_N):
  """One value of each kind over the same data."""
  return {
    'mean': values.Mean.of(x_N, weight_N),
    'sum': values.Sum(jnp.stack([jnp.sum(x_N), jnp.sum(weight_N)])),
    'max': values.Max.of(x_N),
  }


WHOLE = {
  'mean': np.average(X_N, weights=WEIGHT_N),
  'sum': np.array([X_N.sum(), WEIGHT_N.sum()]),
  'max': X_N.max(),
}


def test_one_value_over_all_data():
  tiny.assert_close(values.finish(some(X_N, WEIGHT_N)), WHOLE)


@pytest.mark.parametrize('cut', [1, 5, 12, 23])
def test_merging_is_as_one_value_over_all_data(cut):
  """A mean of 5 and of 19 numbers is the mean of 24, not of two means."""
  a = some(X_N[:cut], WEIGHT_N[:cut])
  b = some(X_N[cut:], WEIGHT_N[cut:])
  for merged in (values.merge(a, b), values.merge(b, a)):
    tiny.assert_close(values.finish(merged), WHOLE)


def test_all_reduce_over_eight_devices_is_a_merge():
  mesh = tiny.mesh(8, data=4, fsdp=2)
  rows, whole = PartitionSpec(meshes.BATCH_AXES), PartitionSpec()
  reduced = jax.shard_map(
    lambda x, w: values.all_reduce(some(x, w), meshes.BATCH_AXES),
    mesh=mesh,
    in_specs=(rows, rows),
    out_specs=whole,
  )
  tiny.assert_close(values.finish(jax.jit(reduced)(X_N, WEIGHT_N)), WHOLE)


def test_empty_leaves_what_it_merges_with_as_it_is():
  full = some(X_N, WEIGHT_N)
  for of in (full, jax.eval_shape(some, X_N, WEIGHT_N)):
    none = values.empty(of)
    tiny.assert_close(values.merge(none, full), full, rtol=0, atol=0)
    tiny.assert_close(values.merge(full, none), full, rtol=0, atol=0)


def test_empty_keeps_a_negative_maximum():
  below = values.Max.of(jnp.array([-3.0, -5.0]))
  assert values.merge(values.empty(below), below).value() == -3


def test_weights_broadcast_and_bools_count():
  assert values.Mean.of(jnp.array([True, False, True, True])).value() == 0.75
  assert values.Mean.of(jnp.arange(4), 2.0).weight == 8


def test_the_mean_over_nothing_is_zero_and_has_a_finite_gradient():
  mean = lambda x_N: values.Mean.of(x_N, jnp.zeros(3)).value()
  value, gradient = jax.value_and_grad(mean)(jnp.ones(3))
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)


def test_no_gradient_goes_through_a_maximum():
  gradient = jax.grad(lambda x_N: values.Max.of(x_N).value())(jnp.arange(3.0))
  np.testing.assert_array_equal(gradient, 0)
