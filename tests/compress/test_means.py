"""MEANS: groups worked by hand, and the contract of entries."""

import numpy as np
import pytest
from helpers import experts

from moejax.compress.means import MEANS, ties

# A dominant expert of four weights in two arrays, and three others.
GROUP = {
  'w_in_EDF': np.array([[[1.0], [1]], [[3], [0]], [[-2], [3]], [[0], [0.5]]]),
  'w_out_EFD': np.array([[[1.0, 1]], [[1, 7]], [[1, 6]], [[1, -11]]]),
}
FREQUENCY_M = np.array([4, 2, 1, 1])
BY_HAND = {
  # Halves, quarters and two eighths.
  'frequency': [[[0.5 + 0.75 - 0.25], [0.5 + 0.375 + 0.0625]], [[1, 1.625]]],
  'plain': [[[0.5], [1.125]], [[1, 0.75]]],
}


@pytest.mark.parametrize('name', BY_HAND)
def test_the_mean_of_four_experts_by_hand(name):
  merged = MEANS[name](GROUP, FREQUENCY_M)
  for key, expected in zip(GROUP, BY_HAND[name], strict=True):
    np.testing.assert_allclose(merged[key], expected, rtol=1e-15)


def test_ties_of_four_experts_by_hand():
  """The two largest of each row of differences, their signs, their means.

  [2 -1 0 6] [-3 2 0 5] [-1 -.5 0 -12] -> [2 0 0 6] [-3 0 0 5] [-1 0 0 -12],
  sums [-2 0 0 -1], so [(-3 - 1) / 2, 0, 0, -12].
  """
  merged = ties(GROUP, FREQUENCY_M, density=0.5)
  np.testing.assert_array_equal(merged['w_in_EDF'], [[1 - 2], [1]])
  np.testing.assert_array_equal(merged['w_out_EFD'], [[1, 1 - 12]])


def test_ties_keeps_a_fifth_of_the_differences():
  dominant, other = np.zeros((2, 1, 10))
  other = other + np.arange(10)
  merged = MEANS['ties']({'b_in_EF': np.stack([dominant, other])}, np.ones(2))
  np.testing.assert_array_equal(merged['b_in_EF'], [[0] * 8 + [8, 9]])


@pytest.mark.parametrize('name', MEANS)
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('frequency_M', [[3, 5, 7], [1, 0, 0], [0, 0, 0]])
def test_the_mean_of_equal_experts_is_the_expert_to_the_bit(
  name, dtype, frequency_M
):
  one = experts.random('clamped_swiglu', experts=1, dtype=dtype)
  one['b_out_ED'][:] = -0.0
  group = {key: np.repeat(array, 3, axis=0) for key, array in one.items()}
  merged = MEANS[name](group, np.array(frequency_M))
  assert merged.keys() == one.keys()
  for key, array in one.items():
    assert merged[key].dtype == dtype
    assert merged[key].tobytes() == array[0].tobytes()


@pytest.mark.parametrize('name', MEANS)
def test_the_mean_of_one_expert_is_the_expert_to_the_bit(name):
  one = experts.random('swiglu', experts=1, dtype=np.float32)
  merged = MEANS[name](one, np.array([3]))
  for key, array in one.items():
    np.testing.assert_array_equal(merged[key], array[0])


@pytest.mark.parametrize('name', MEANS)
def test_the_order_of_the_other_members_is_nothing_to_a_mean(name):
  weights = experts.random('swiglu')
  order = np.array([0, 3, 1, 2])
  merged = MEANS[name](weights, FREQUENCY_M)
  other = MEANS[name](
    {key: array[order] for key, array in weights.items()}, FREQUENCY_M[order]
  )
  for key in weights:
    np.testing.assert_allclose(merged[key], other[key], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize('name', MEANS)
def test_means_are_finite_and_of_the_experts_shape(name):
  weights = experts.random('autonomous_swiglu', dtype=np.float32)
  merged = MEANS[name](weights, np.zeros(4))
  for key, array in weights.items():
    assert merged[key].shape == array.shape[1:]
    assert merged[key].dtype == np.float32
    assert np.all(np.isfinite(merged[key]))


def test_members_that_are_never_activated_weigh_nothing():
  weights = experts.random('swiglu', experts=3)
  merged = MEANS['frequency'](weights, np.array([5, 0, 0]))
  for key, array in weights.items():
    np.testing.assert_array_equal(merged[key], array[0])
