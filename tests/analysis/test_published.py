"""Published curves: of measures that are there, in the units of ours."""

import pytest

from moejax.analysis import MEASURES, published


def test_curves_are_of_measures_and_have_their_units():
  curves = published.curves()
  assert {'saturation', 'type_saturation', 'change_rate'} == set(curves)
  assert set(curves) <= set(MEASURES)
  for by_name in curves.values():
    for points in by_name.values():
      shares, values = zip(*points, strict=True)
      assert list(shares) == sorted(shares)
      assert all(0 <= x <= 100 for x in shares)
      assert all(0 <= value <= 1 for value in values)


def test_a_curve_is_named_by_its_model_and_paper():
  curve = published.curves()['saturation']
  name = 'DeepSeek-V3 158M, by token type (arXiv 2505.10860)'
  assert curve[name] == [[10, 0.615], [90, 0.857]]


def test_one_curve_by_its_name_and_no_other():
  assert published.curve('change_rate', 'SMoE 158M') == [
    [20, 0.24],
    [100, 0.085],
  ]
  for measure, name in (('saturation', 'SMoE'), ('nothing', 'SMoE 158M')):
    with pytest.raises(KeyError, match=f'0 curves of {measure}'):
      published.curve(measure, name)
