"""Preprocessing against formulas written by hand."""

import numpy as np
import pytest
from helpers import resample

from moejax.core import errors
from moejax.vision import preprocessing
from moejax.vision.preprocessing import Preprocessing, preprocess

# No change but what a test asks for: results are grey levels.
PLAIN = {'scale': 1.0, 'mean': (0, 0, 0), 'std': (1, 1, 1)}


def image(rows, columns, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (rows, columns, 3)).astype(np.uint8)


@pytest.mark.parametrize('new', [(11, 30), (40, 7), (5, 6)])
def test_resizing_is_bicubic_to_one_grey_level(new):
  """One axis larger, the other, none; noise shows any other kernel."""
  old = image(17, 23)
  found = preprocess(old, Preprocessing(size=new, **PLAIN))
  assert found.shape == (*new, 3)
  assert resample.far(found, old) <= 1
  other = Preprocessing(size=new, resample='bilinear', **PLAIN)
  assert resample.far(preprocess(old, other), old) > 5


@pytest.mark.parametrize(
  ('old', 'new'),
  [((17, 23), (8, 10)), ((23, 17), (10, 8)), ((9, 9), (8, 8))],
)
def test_the_shorter_edge_keeps_the_ratio(old, new):
  """8 * 23 / 17 is 10.8; the fraction is cut off."""
  found = preprocess(image(*old), Preprocessing(size=(8,), **PLAIN))
  assert found.shape[:2] == new
  assert resample.far(found, image(*old)) <= 1


@pytest.mark.parametrize('turned', [False, True])
def test_the_crop_is_the_middle_or_has_zeros_around(turned):
  """One of 3 rows above is cut, one of 3 columns is put behind."""
  turn = (1, 0, 2) if turned else (0, 1, 2)
  old = image(7, 4)
  wanted = np.zeros((4, 7, 3))
  wanted[:, 2:6] = old[1:5]
  crop = (7, 4) if turned else (4, 7)
  config = Preprocessing(size=(), crop=crop, **PLAIN)
  found = preprocess(old.transpose(turn), config)
  np.testing.assert_array_equal(found, wanted.transpose(turn))


def test_padding_to_a_square_has_the_mean_colour():
  old = image(3, 8)
  config = Preprocessing(
    pad_square=True,
    size=(),
    mean=preprocessing.CLIP_MEAN,
    std=preprocessing.CLIP_STD,
  )
  found = preprocess(old, config)
  levels = np.rint((found * config.std + config.mean) * 255)
  np.testing.assert_array_equal(levels[2:5], old)
  for row in (0, 1, 5, 7):
    np.testing.assert_array_equal(levels[row], [[122, 116, 104]] * 8)


def test_scale_mean_and_std_are_applied_in_this_order():
  old = image(2, 2)
  config = Preprocessing(
    size=(), scale=0.5, mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0)
  )
  wanted = (old * 0.5 - [1, 2, 3]) / [2, 4, 8]
  found = preprocess(old, config)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, wanted, 1e-6)


def test_an_image_that_would_become_very_long_is_refused():
  with pytest.raises(errors.InputError, match='too narrow for size=') as error:
    preprocess(image(1, 40_000), Preprocessing(size=(50,)))
  assert '50 x 2000000' in str(error.value)


@pytest.mark.parametrize(
  ('keys', 'message'),
  [
    ({'size': (1, 2, 3)}, 'must have 0 or 1 or 2 numbers'),
    ({'crop': (1,)}, 'must have 0 or 2 numbers'),
    ({'mean': (1.0,)}, 'must have 3 numbers'),
    ({'std': (0.0, 1.0, 1.0)}, 'Preprocessing.std=0.0 must be above 0'),
    ({'resample': 'bicubik'}, "did you mean 'bicubic'"),
  ],
)
def test_wrong_values_are_one_line(keys, message):
  with pytest.raises(errors.InputError, match=message):
    Preprocessing(**keys)
