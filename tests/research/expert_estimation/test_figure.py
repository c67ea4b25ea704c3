"""The figure of a study: its points, and the slopes that are marked."""

import warnings

import numpy as np
import pytest

from moejax.research.expert_estimation import figure, slopes

SIZES = [100, 1000, 10_000]


def case(**changed):
  x = slopes.regressor(np.array(SIZES))
  mean = [*map(float, 3 * np.exp(0.4 * x))]
  slope = {'value': 0.4, 'low': 0.3, 'high': 0.5, 'intercept': float(np.log(3))}
  loss = {'mean': mean, 'deviation': [0.1] * 3, 'slope': slope}
  return {
    'loss': 'D1',
    'sizes': SIZES,
    'theory': 0.5,
    'published': 0.451,
    'series': {'loss': loss},
    **changed,
  }


def test_a_panel_marks_the_theorems_slope_and_the_published_one():
  whole = figure.draw({'softmax': case(), 'ours': case(published=None)})
  first, other = whole.axes[:2]
  lines = {line.get_label(): line for line in first.get_lines()}
  x = slopes.regressor(np.array(SIZES))
  for label, slope in (
    ('theory 0.5', 0.5),
    ('published 0.451', 0.451),
    ('0.400 [0.300, 0.500]', 0.4),
  ):
    y = np.log(lines[label].get_ydata())
    assert np.polyfit(x, y, 1)[0] == pytest.approx(slope)
    # All go through the first mean.
    assert y[0] == pytest.approx(np.log(3) + 0.4 * x[0])
  labels = [line.get_label() for line in other.get_lines()]
  assert not any('published' in label for label in labels)
  assert first.get_title() == 'softmax: D1'


def test_a_size_without_a_mean_is_left_out():
  gone = case()
  gone['series']['loss'] |= {'mean': [1.0, None, 0.1], 'slope': None}
  (panel,) = figure.draw({'softmax': gone}).axes
  lines = {line.get_label(): line for line in panel.get_lines()}
  assert [*lines['theory 0.5'].get_xdata()] == [100, 10_000]


def test_one_size_without_a_theorem_has_a_point_and_no_legend():
  one = case(sizes=[100], theory=None, published=None)
  one['series']['loss'] = {'mean': [1.0], 'deviation': [None], 'slope': None}
  with warnings.catch_warnings(action='error'):
    (panel,) = figure.draw({'ours': one}).axes
  assert panel.get_legend() is None
  assert len(panel.containers) == 1
