"""Theorem 4 of arXiv 2505.10860: its truth, in a model of three sigmoids."""

import dataclasses

import jax
import numpy as np
import pytest

from moejax.research.expert_estimation import (
  data,
  em,
  projection,
  studies,
  trials,
  truths,
)
from moejax.research.expert_estimation.model import double
from moejax.research.expert_estimation.trials import Request


def test_a_gate_near_zero_leaves_the_nearest_model_of_theorem_4_open():
  """Whatever the third expert is, such a model is as near to the truth.

  Its gate is at most exp(-30) over the sum of the true sigmoids, which is 7e-7
  at x = -3; over all inputs the mean is 5e-9.
  """
  truth = truths.SIGMOID_DENSE
  model = dataclasses.replace(truth.model, num_routed=3)
  nodes = data.quadrature(truth, 60, 8)
  found = []
  with double():
    log_density = jax.jit(lambda params: model.log_density(params, *at))
    at = (nodes.x_ND, nodes.y_N)
    true_N = truth.model.log_density(truth.params, *at)
    for expert in ([0.0, 0.0], [50.0, -40.0]):
      params = dataclasses.replace(
        truth.params,
        gate={
          'slope': np.append(truth.params.gate['slope'], [[0.0]], axis=0),
          'bias': np.append(truth.params.gate['bias'], -30.0),
        },
        routed_EP=np.append(truth.params.routed_EP, [expert], axis=0),
        log_variance_E=np.append(truth.params.log_variance_E, 0.0),
      )
      found.append(float(nodes.weight_N @ (true_N - log_density(params))))
  assert max(np.abs(found)) < 1e-7


def three_sigmoids():
  """The truth of theorem 4 with three gates, by hand.

  With z = exp(-5 x - 1/2) the true gates have the ratio
  (1 + e z) / (1 + z) = 1 + (e - 1) sigmoid(-5 x - 1/2). So constant gates of
  1 / (e - 1) for either expert, and sigmoid(-5 x - 1/2) for the second one
  again, are the same gate.
  """
  truth = truths.SIGMOID_DENSE
  constant = 1 / (np.e - 1)
  bias = np.log(constant) - np.log1p(-constant)
  first_second_E = np.array([0, 1, 1])
  params = dataclasses.replace(
    truth.params,
    gate={
      'slope': np.array([[0.0], [0.0], [-5.0]]),
      'bias': np.array([bias, bias, -0.5]),
    },
    routed_EP=truth.params.routed_EP[first_second_E],
    log_variance_E=truth.params.log_variance_E[first_second_E],
  )
  model = dataclasses.replace(truth.model, num_routed=3)
  return dataclasses.replace(truth, model=model, params=params)


def test_three_sigmoids_express_the_truth_of_theorem_4():
  """Although the sum of two sigmoids is no sigmoid: only ratios matter."""
  truth, same = truths.SIGMOID_DENSE, three_sigmoids()
  nodes = data.quadrature(truth, 60, 8)
  with double():
    true_N, same_N = (
      np.asarray(one.model.log_density(one.params, nodes.x_ND, nodes.y_N))
      for one in (truth, same)
    )
  np.testing.assert_allclose(same_N, true_N, atol=1e-12)


def test_a_fit_begins_near_the_model_that_its_loss_compares_with():
  case, near = studies.SIGMOID['sigmoid_dense'], three_sigmoids()
  trial = trials.prepare(case, 'x', 10**5, 0, Request(), near)
  gate = trial.starts[0].gate
  # Noise of 0.1 n ** -0.083.
  np.testing.assert_allclose(gate['slope'], near.params.gate['slope'], atol=0.2)
  np.testing.assert_allclose(gate['bias'], near.params.gate['bias'], atol=0.2)


@pytest.mark.soak
def test_near_the_truth_of_theorem_4_the_likelihood_has_lower_maxima():
  """There two atoms have the first expert, and no gate is the true one."""
  case = studies.SIGMOID['sigmoid_dense']
  settings = em.Settings(largest_gate=6.0)
  request = Request(trials=3, sizes=(10_000,), em=settings)
  fits = {}
  for name, near in (('true', case.truth), ('nearest', three_sigmoids())):
    prepared = [
      trials.prepare(case, 'sigmoid_dense', 10_000, i, request, near)
      for i in range(3)
    ]
    fits[name] = trials.by_em(case, prepared, request)
  slopes = lambda fit: np.sort(fit.params.routed_EP[:, 0]).round().tolist()
  assert [slopes(fit) for fit in fits['nearest']] == [[-6, -6, 8]] * 3
  lower = [slopes(fit) == [-6, 8, 8] for fit in fits['true']]
  assert any(lower)
  gaps = [
    10_000 * (other.objective_T - fit.objective_T)
    for fit, other in zip(fits['true'], fits['nearest'], strict=True)
  ]
  # Of the log likelihood; the other fits from there are the same.
  assert all((gap > 1) == low for gap, low in zip(gaps, lower, strict=True))


@pytest.mark.soak
def test_the_projection_is_the_model_that_was_found_by_hand():
  exact = three_sigmoids()
  nearest = projection.project(exact.model, truths.SIGMOID_DENSE, num_starts=4)
  assert nearest.divergence == pytest.approx(0, abs=1e-8)
  gate = nearest.params.gate
  order = np.argsort(-gate['slope'][:, 0])
  for name in ('slope', 'bias'):
    np.testing.assert_allclose(
      gate[name][order], exact.params.gate[name], atol=0.01
    )
