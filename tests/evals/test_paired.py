"""Intervals of paired differences, worked by hand."""

import numpy as np

from moejax.evals import paired


def test_two_rows_give_the_quantiles_of_three_means():
  # Draws of two rows have the means 0, 1 and 2, with 1/4, 1/2 and 1/4.
  ends = paired.interval(np.array([0.0, 2.0]), np.array([1.0, 1.0]))
  assert ends == (0, 2)


def test_a_mean_is_over_weights_and_not_over_rows():
  # Both rows differ by 1 for each of their values.
  ends = paired.interval(np.array([3.0, 9.0]), np.array([3.0, 9.0]))
  assert ends == (1, 1)


def test_one_row_has_no_interval():
  assert paired.interval(np.array([1.0]), np.array([1.0])) is None
