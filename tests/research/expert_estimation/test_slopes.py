"""Slopes of lines that are known, and intervals that hold the truth."""

import numpy as np
import pytest

from moejax.core import errors
from moejax.research.expert_estimation import slopes

SIZES = np.array([100, 1000, 10_000, 100_000])


def test_a_power_law_gives_its_exponent():
  loss = 3 * (np.log(SIZES) / SIZES) ** 0.25
  fit = slopes.fit(SIZES, np.tile(loss[:, None], 5))
  assert fit.value == pytest.approx(0.25)
  assert fit.low == pytest.approx(0.25)
  assert fit.high == pytest.approx(0.25)
  np.testing.assert_allclose(fit.at(SIZES), loss)


def test_two_sizes_by_hand():
  """Losses 1 and 1/8; log(log n / n) falls from -3.0780 to -4.9751."""
  fit = slopes.fit(np.array([100, 1000]), np.array([[1.0], [0.125]]))
  assert fit.value == pytest.approx(np.log(8) / (4.9751 - 3.0780), rel=1e-4)


def test_the_mean_over_trials_is_fitted_and_not_that_of_logarithms():
  loss = (np.log(SIZES) / SIZES) ** 0.5
  spread = np.stack([0.1 * loss, 1.9 * loss], axis=1)
  spread[0] = loss[0]  # equal means, other logarithms
  assert slopes.fit(SIZES, spread).value == pytest.approx(0.5)


def test_the_interval_holds_the_exponent_about_as_often_as_it_says():
  rng = np.random.default_rng(0)
  law = (np.log(SIZES) / SIZES) ** 0.5
  hits, repeats = 0, 200
  for seed in range(repeats):
    noise = rng.lognormal(0, 0.5, (len(SIZES), 40))
    fit = slopes.fit(SIZES, law[:, None] * noise, seed, resamples=200)
    hits += fit.low <= 0.5 <= fit.high
  # Binomial with p = 0.95: mean 190, standard deviation 3.1.
  assert 176 <= hits <= 200


def test_the_interval_is_as_wide_as_the_error_of_the_slope():
  """The error of the slope of least squares, of means with known errors."""
  rng = np.random.default_rng(1)
  trials, spread = 400, 0.1
  noise = 1 + spread * rng.standard_normal((len(SIZES), trials))
  law = (np.log(SIZES) / SIZES) ** 0.5
  fit = slopes.fit(SIZES, law[:, None] * noise)
  centred = slopes.regressor(SIZES) - slopes.regressor(SIZES).mean()
  error = spread / np.sqrt(trials) / np.sqrt(centred @ centred)
  assert fit.high - fit.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_failed_trials_are_left_out():
  loss = np.tile(((np.log(SIZES) / SIZES) ** 0.5)[:, None], 3)
  loss[1, 2] = np.nan
  assert slopes.fit(SIZES, loss).value == pytest.approx(0.5)


@pytest.mark.parametrize(
  ('sizes', 'loss', 'message'),
  [
    ([100, 100], [[1.0], [1.0]], 'needs two sizes'),
    ([100, 1000], [[np.nan], [1.0]], 'size 100: no trial has a loss'),
    ([100, 1000], [[1.0], [0.0]], 'size 1000: a mean loss of 0'),
  ],
)
def test_what_has_no_slope_says_why(sizes, loss, message):
  with pytest.raises(errors.InputError, match=message):
    slopes.fit(np.array(sizes), np.array(loss))


def test_the_slope_of_medians_ignores_a_trial_that_ran_away():
  size_S = np.array([100, 1000, 10_000])
  loss_S = np.sqrt(np.log(size_S) / size_S)
  loss_ST = np.stack([0.9 * loss_S, loss_S, loss_S * [2, 3e4, 2]], axis=1)
  found = slopes.fit(size_S, loss_ST, resamples=200, middle=np.median)
  assert found.value == pytest.approx(0.5)
  loss_ST[2, 2] *= 1e6
  assert slopes.fit(size_S, loss_ST, resamples=200).value < 0
  found = slopes.fit(size_S, loss_ST, resamples=200, middle=np.median)
  assert found.value == pytest.approx(0.5)
