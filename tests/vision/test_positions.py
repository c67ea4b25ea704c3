"""Position embeddings of other grids, by numbers worked by hand."""

import numpy as np

from moejax.vision import positions


def test_one_axis_from_two_places_to_four():
  """Cubic convolution with a = -0.75.

  New places 0 to 3 lie at -0.25, 0.25, 0.75 and 1.25 of the old ones. The
  kernel is 0.8789 at 0.25 and 0.2617 at 0.75, -0.1055 at 1.25 and -0.0352 at
  1.75. The first new place is -0.25: of the taps -2, -1, 0 and 1 at distances
  1.75, 0.75, 0.25 and 1.25, the first three are clamped to old place 0.
  """
  near, middle, far, last = 0.87890625, 0.26171875, -0.10546875, -0.03515625
  outer = [last + middle + near, far]
  inner = [far + near, middle + last]
  wanted = [outer, inner, inner[::-1], outer[::-1]]
  np.testing.assert_allclose(positions.interpolation(2, 4), wanted, atol=1e-6)


def test_weights_sum_to_one_and_the_same_size_is_left_as_it_is():
  for old, new in ((4, 7), (7, 4), (1, 3), (5, 1), (16, 27)):
    rows = positions.interpolation(old, new).sum(axis=1)
    np.testing.assert_allclose(rows, 1, atol=1e-6)
  np.testing.assert_array_equal(positions.interpolation(5, 5), np.eye(5))


def test_rows_and_columns_are_not_confused():
  """A table that is linear along rows stays constant along columns."""
  table_MD = np.repeat(np.arange(4.0), 4)[:, None]
  grid = positions.resized(table_MD, 4, 6).reshape(4, 6)
  np.testing.assert_allclose(grid, np.tile(np.arange(4.0)[:, None], 6), 1e-6)
