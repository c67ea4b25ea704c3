"""Least squares: where SciPy's trust region stops, and its bounds."""

import numpy as np
import pytest

from moejax.core.errors import InputError
from moejax.research.expert_estimation import maximum, trials
from moejax.research.expert_estimation.maximum import Optimiser
from moejax.research.expert_estimation.studies import STUDIES
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
