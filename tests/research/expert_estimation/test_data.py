"""Samples against the papers' densities, written down once more."""

import math

import numpy as np
import pytest
import scipy.stats

from moejax.core import errors
from moejax.research.expert_estimation import data, truths


def rng():
  return np.random.default_rng(7)


def softmax_relu_cdf(x, y):
  """The distribution function of theorem 1's truth at one input.

  Softmax weights do not depend on x, since both slopes are 5.
  """
  relu = lambda z: max(z, 0.0)
  first = 1 / (1 + math.exp(1.0))
  parts = [
    (0.5, -8 * relu(6 * x), 0.25),
    (0.5 * first, 4 * relu(-12 * x), 0.4),
    (0.5 * (1 - first), 4 * relu(12 * x), 0.4),
  ]
  return sum(
    share * scipy.stats.norm.cdf(y, mean, math.sqrt(variance))
    for share, mean, variance in parts
  )


def sigmoid_dense_cdf(x, y):
  sigmoid = lambda z: 1 / (1 + math.exp(-z))
  one, other = sigmoid(5 * x - 0.5), sigmoid(5 * x + 0.5)
  parts = [
    (0.5, -8 * max(6 * x, 0.0), 0.25),
    (0.5 * one / (one + other), 8 * x + 2, 0.4),
    (0.5 * other / (one + other), -6 * x + 1, 0.4),
  ]
  return sum(
    share * scipy.stats.norm.cdf(y, mean, math.sqrt(variance))
    for share, mean, variance in parts
  )


@pytest.mark.parametrize(
  ('truth', 'cdf'),
  [
    (truths.SOFTMAX_RELU, softmax_relu_cdf),
    (truths.SIGMOID_DENSE, sigmoid_dense_cdf),
  ],
)
def test_samples_have_the_mixtures_distribution(truth, cdf):
  """F(y | x) of samples is uniform; an average of draws would fail by far."""
  sample = data.draw(truth, 2000, rng())
  pairs = zip(sample.x_ND[:, 0], sample.y_N, strict=True)
  level = [cdf(x, y) for x, y in pairs]
  assert scipy.stats.kstest(level, 'uniform').pvalue > 0.01
  inputs = sample.x_ND[:, 0] / 6 + 0.5
  assert scipy.stats.kstest(inputs, 'uniform').pvalue > 0.01


def test_each_expert_has_its_own_share_and_variance():
  """Away from x = 0 the lines of theorem 2's truth are far apart."""
  sample = data.draw(truths.SOFTMAX_LINEAR, 8000, rng())
  far = abs(sample.x_ND[:, 0]) > 1.5
  x, y = sample.x_ND[far, 0], sample.y_N[far]
  lines = np.stack([2 * x, 8 * x + 2, -6 * x + 1])
  nearest = np.argmin(abs(y - lines), axis=0)
  first = 0.5 / (1 + math.exp(1.0))
  for i, (share, variance) in enumerate([
    (0.5, 0.2),
    (first, 0.4),
    (0.5 - first, 0.4),
  ]):
    error = (y - lines[i])[nearest == i]
    # About 540 samples or more: standard errors of .007 and of 6%.
    assert np.mean(nearest == i) == pytest.approx(share, abs=0.03)
    assert np.mean(error**2) == pytest.approx(variance, rel=0.25)


def test_equal_generators_give_equal_samples():
  one, other = (data.draw(truths.SOFTMAX_LINEAR, 50, rng()) for _ in range(2))
  np.testing.assert_array_equal(one.y_N, other.y_N)
  assert one.y_N.dtype == one.x_ND.dtype == np.float64
  assert one.weight_N.sum() == pytest.approx(1)
  with pytest.raises(errors.InputError, match='num=0 samples'):
    data.draw(truths.SOFTMAX_LINEAR, 0, rng())


def test_a_regression_is_its_mean_plus_noise():
  rows = [
    (0.0, 1.0, {'slope': 2.0, 'offset': 1.0}, 1.0),
    (0.5, 0.0, {'slope': -1.0, 'offset': 0.0}, 1.0),
  ]
  truth = truths.truth('softmax', 'linear', rows, noise=0.3)
  sample = data.draw(truth, 2000, rng())
  x = sample.x_ND[:, 0]
  gate = np.exp(x) / (np.exp(x) + np.exp(0.5))
  noise = sample.y_N - (gate * (2 * x + 1) - (1 - gate) * x)
  assert scipy.stats.kstest(noise / 0.3, 'norm').pvalue > 0.01


def test_nodes_give_expectations():
  """Mean and second moment at all inputs, against closed forms."""
  nodes = data.quadrature(truths.SIGMOID_SPARSE, 400, 5)
  assert nodes.weight_N.sum() == pytest.approx(1)
  # The mean is half of -48 relu(x), and of 48 relu of -x or x with the weights
  # .3775 and .6225; relu(x) and relu(-x) have the mean 3/4, squares 3/2.
  mean = 0.5 * 48 * 0.75 * (-1 + 1)
  assert nodes.weight_N @ nodes.y_N == pytest.approx(mean, abs=1e-3)
  square = 0.5 * (48**2 * 1.5 + 0.25) + 0.5 * (48**2 * 1.5 + 0.4)
  assert nodes.weight_N @ nodes.y_N**2 == pytest.approx(square, rel=1e-4)


def test_the_parameters_of_the_papers_experiments():
  """arXiv 2505.10860, appendix G.1."""
  measures = truths.SOFTMAX_RELU.measures
  np.testing.assert_allclose(measures.routed.weight_K, np.exp([-0.5, 0.5]))
  np.testing.assert_allclose(measures.routed.parameters, [[-12, 4], [12, 4]])
  np.testing.assert_allclose(measures.routed.variance_K, 0.4)
  np.testing.assert_allclose(measures.routed.slope_KD, 5)
  np.testing.assert_allclose(measures.shared.parameters, [[6, 0, -8]])
  np.testing.assert_allclose(measures.shared.variance_K, 0.25)
  np.testing.assert_allclose(measures.shared.weight_K, 1)
  linear = truths.SOFTMAX_LINEAR.measures
  np.testing.assert_allclose(linear.routed.parameters, [[8, 2], [-6, 1]])
  np.testing.assert_allclose(linear.shared.parameters, [[2, 0]])
  np.testing.assert_allclose(linear.shared.variance_K, 0.2)
  sparse = truths.SIGMOID_SPARSE.measures
  np.testing.assert_allclose(sparse.routed.slope_KD, 0)
  np.testing.assert_allclose(
    sparse.routed.weight_K, [0.37754067, 0.62245933], rtol=1e-6
  )
  dense = truths.SIGMOID_DENSE.measures
  np.testing.assert_allclose(dense.shared.parameters, [[6, 0, -8]])
  np.testing.assert_allclose(dense.routed.parameters, [[8, 2], [-6, 1]])


def test_a_truth_that_lacks_a_parameter_says_which_there_are():
  with pytest.raises(errors.InputError, match='the parameters slope, offset'):
    truths.truth('softmax', 'linear', [(0, 0, {'slope': 1.0}, 1)])
  with pytest.raises(errors.InputError, match="did you mean 'softmax'"):
    truths.truth('soft_max', 'linear', truths.ROUTED_LINEAR)
