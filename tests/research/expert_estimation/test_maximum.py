"""Least squares: where SciPy's trust region stops, and its bounds."""

import dataclasses

import numpy as np
import pytest

from moejax.core.errors import InputError
from moejax.research.expert_estimation import (
  data,
  maximum,
  starts,
  trials,
  truths,
)
from moejax.research.expert_estimation.maximum import Optimiser
from moejax.research.expert_estimation.studies import STUDIES, fitted
from moejax.research.expert_estimation.trials import Request

CASE = STUDIES['least_squares'].cases['sigmoid']


def fit(**settings):
  """The first trial of 300 samples, with three experts for two."""
  trial = trials.prepare(
    CASE, 'x', 300, 0, Request(trials=1, sizes=(300,)), CASE.truth
  )
  optimiser = Optimiser(**settings)
  return maximum.least_squares(
    CASE.model, trial.sample, trial.starts, optimiser
  )


def test_least_squares_stop_where_a_step_adds_no_likelihood():
  # SciPy's criterion is the share of the squares that a step takes away: here
  # 2e-5 / 300, of which 300 / 2 are 1e-5 nats.
  found, further = fit(), fit(gain=1e-9)
  assert found.converged
  assert found.iterations < further.iterations
  gained = 300 / 2 * np.log(found.objective / further.objective)
  assert 0 <= gained < 0.1


def test_parameters_of_experts_are_bounded():
  bounded = np.abs(fit(largest_expert=4.5).params.routed_EP)
  assert bounded.max() == pytest.approx(4.5)
  assert np.abs(fit().params.routed_EP).max() > 4.5
  with pytest.raises(InputError, match='largest_expert'):
    Optimiser(largest_expert=0)


def test_a_pinned_pair_of_a_regression_stays_where_it_begins():
  case = STUDIES['least_squares'].cases['linear']
  case = case.with_gate('normalised_sigmoid_pinned')
  model = dataclasses.replace(case.model, num_routed=2)
  case = dataclasses.replace(case, model=model)
  request = Request(trials=1, sizes=(60,))
  trial = trials.prepare(case, 'x', 60, 0, request, case.truth)
  found = maximum.least_squares(model, trial.sample, trial.starts)
  assert found.converged
  for name, start in trial.starts[0].gate.items():
    moved = np.asarray(found.params.gate[name]) != start
    assert moved.reshape(2, -1)[:, 0].tolist() == [True, False]


def test_the_gradient_of_a_fit_leaves_a_pinned_pair_out():
  # At the maximum of the other weights that of the pair is 0.007.
  truth = truths.CONSTANT_GATES['linear']
  model = fitted(truth, 2, 0, 'normalised_sigmoid_pinned')
  rng = np.random.default_rng(0)
  sample = data.draw(truth, 40, rng)
  start = starts.near_truth(model, truth, sample, rng)
  found = maximum.maximum_likelihood(model, sample, [start])
  assert found.converged
  assert found.gradient < 1e-5
