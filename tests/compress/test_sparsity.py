"""Structured sparsity: schedule, sensitivity and threshold by hand."""

import numpy as np
import pytest

from moejax.compress.sparsity import (
  REDUCTIONS,
  CubicSchedule,
  Sensitivity,
  kept,
)
from moejax.core import errors

SHORT = CubicSchedule(10, initial_steps=2, final_steps=4, initial=1, final=0.2)


@pytest.mark.parametrize(
  ('step', 'share'),
  [
    (0, 1),
    (2, 1),
    (3, 0.2 + 0.8 * 0.75**3),
    (4, 0.2 + 0.8 * 0.5**3),
    (5, 0.2 + 0.8 * 0.25**3),
    (6, 0.2),
    (7, 0.2),
    (10, 0.2),
  ],
)
def test_the_cubic_schedule_by_hand(step, share):
  assert SHORT.share(step) == pytest.approx(share, rel=1e-15)


def test_the_published_schedule():
  """T = 10000, plateaus of 400 and 1600 steps, from 1 to 0.10."""
  published = CubicSchedule()
  shares = [published.share(step) for step in range(10_001)]
  assert set(shares[:401]) == {1.0}
  assert shares[401] < 1
  assert shares[4_400] == pytest.approx(0.1 + 0.9 / 8)  # the middle
  assert shares[8_399] > 0.1
  assert set(shares[8_401:]) == {0.1}
  assert np.all(np.diff(shares) <= 0)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'steps': 2000}, 'initial_steps=400 and final_steps=1600 leave nothing'),
    ({'initial_steps': -1}, 'initial_steps=-1 and'),
    ({'final_steps': -1}, 'final_steps=-1 leave'),
    ({'initial': 0.05}, 'initial=0.05 and final=0.1 must fall within 0 to 1'),
    ({'initial': 1.5}, 'initial=1.5 and'),
    ({'final': -0.1}, 'final=-0.1 must fall'),
  ],
)
def test_a_schedule_that_cannot_be_is_one_line(fields, message):
  with pytest.raises(errors.InputError, match=message):
    CubicSchedule(**fields)


S_IO = np.array([[1.0, -2], [0, 4]])
GRADIENTS = [np.array([[2.0, 1], [9, -1]]), np.array([[0.0, 3], [9, -0.5]])]
# |s g| of both steps.
FIRST, SECOND = np.array([[2.0, 2], [0, 4]]), np.array([[0.0, 6], [0, 2]])


def _after(start):
  for gradient_IO in GRADIENTS:
    start = start.after(S_IO, gradient_IO)
  return start


def test_sensitivity_is_smoothed_by_hand():
  done = _after(Sensitivity(beta1=0.75))
  np.testing.assert_allclose(done.score(), 0.75 * 0.25 * FIRST + 0.25 * SECOND)


def test_sensitivity_is_averaged_in_a_window():
  half = Sensitivity(beta1=0.75, window_steps=2).after(S_IO, GRADIENTS[0])
  np.testing.assert_array_equal(half.score(), 0)
  done = half.after(S_IO, GRADIENTS[1])
  np.testing.assert_allclose(done.score(), 0.25 * (FIRST + SECOND) / 2)
  assert done.filled == 0
  third = done.after(S_IO, GRADIENTS[0]).after(S_IO, GRADIENTS[0])
  np.testing.assert_allclose(
    third.score(), 0.75 * 0.25 * (FIRST + SECOND) / 2 + 0.25 * FIRST
  )


def test_uncertainty_by_hand():
  done = _after(Sensitivity(beta1=0.75, beta2=0.5))
  ema_1 = 0.25 * FIRST
  ema_2 = 0.75 * ema_1 + 0.25 * SECOND
  uncertainty = 0.25 * np.abs(FIRST - ema_1) + 0.5 * np.abs(SECOND - ema_2)
  np.testing.assert_allclose(done.uncertainty, uncertainty)
  np.testing.assert_allclose(done.score(), ema_2 * uncertainty)


SCORES = {
  'w_in': np.array([[1.0, 9, 2, 0], [3, 1, 4, 0]]),
  'w_out': np.array([[5.0, 0], [1, 8]]),
}


@pytest.mark.parametrize(
  ('share', 'reduction', 'w_in', 'w_out'),
  [
    # Means 2 5 3 0 and 3 4, two numbers each, twelve in all.
    (4 / 12, 'mean', [0, 1, 0, 0], [0, 1]),
    (2 / 12, 'mean', [0, 1, 0, 0], [0, 0]),
    (0.3, 'mean', [0, 1, 0, 0], [0, 1]),
    (5 / 12, 'mean', [0, 1, 1, 0], [1, 1]),
    (1.0, 'mean', [1, 1, 1, 1], [1, 1]),
    (0.0, 'mean', [0, 0, 0, 0], [0, 0]),
    # Largest 3 9 4 0 and 5 8; smallest 1 1 2 0 and 1 0.
    (6 / 12, 'max', [0, 1, 0, 0], [1, 1]),
    (2 / 12, 'min', [0, 0, 1, 0], [0, 0]),
    (4 / 12, 'sum', [0, 1, 0, 0], [0, 1]),
  ],
)
def test_the_columns_that_stay_by_hand(share, reduction, w_in, w_out):
  masks = kept(SCORES, share, 'columns', reduction)
  np.testing.assert_array_equal(masks['w_in'], [w_in, w_in])
  np.testing.assert_array_equal(masks['w_out'], [w_out, w_out])


def test_the_rows_that_stay_by_hand():
  """Means 3 and 2 of four numbers, 2.5 and 4.5 of two."""
  masks = kept(SCORES, 6 / 12, 'rows')
  np.testing.assert_array_equal(masks['w_in'], [[1] * 4, [0] * 4])
  np.testing.assert_array_equal(masks['w_out'], [[0] * 2, [1] * 2])


@pytest.mark.parametrize('reduction', REDUCTIONS)
@pytest.mark.parametrize('direction', ['rows', 'columns'])
@pytest.mark.parametrize('share', [0.1, 0.25, 0.5, 0.9])
def test_whole_units_stay_and_fill_the_share(reduction, direction, share):
  rng = np.random.default_rng(2)
  scores = {'a': rng.uniform(size=(5, 7)), 'b': rng.uniform(size=(7, 5))}
  masks = kept(scores, share, direction, reduction)
  axis = {'rows': 1, 'columns': 0}[direction]
  stays = sum(mask.sum() for mask in masks.values())
  assert share * 70 - 1e-9 <= stays < share * 70 + 7
  for mask in masks.values():
    assert np.all(mask.all(axis=axis) == mask.any(axis=axis))
