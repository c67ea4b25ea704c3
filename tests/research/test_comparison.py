"""Tests of methods against each other, with numbers worked by hand."""

import math

import pytest

from moejax.research import comparison


def test_the_spread_is_pooled_over_methods():
  # Squares 2 + 6 over 1 + 2 degrees of freedom; one seed has no spread.
  scores = {'a': [1.0, 3.0], 'b': [5.0, 5.0, 8.0], 'c': [9.0]}
  assert comparison.pooled_spread(scores) == pytest.approx(math.sqrt(8 / 3))


def test_methods_far_apart_differ_and_close_ones_do_not():
  scores = {
    'a': [2.00, 2.01, 2.02],
    'b': [2.01, 2.02, 2.00],
    'c': [2.50, 2.51, 2.52],
    'one_seed': [9.0],
  }
  test = comparison.compare(scores)
  # Means 2.01, 2.01 and 2.51; 0.01 within. Between: 3 * (2 * (1/6)^2 +
  # (1/3)^2) / 2 = 0.25; within: 0.0001.
  assert test.ratio == pytest.approx(0.25 / 0.0001)
  assert test.spread == pytest.approx(0.01)
  assert test.p < 1e-6
  assert [*test.pairs] == [('a', 'b'), ('a', 'c'), ('b', 'c')]
  assert test.pairs['a', 'c'][0] == pytest.approx(-0.5)
  assert not test.differ('b', 'a')
  assert test.differ('c', 'a')
  assert test.num_differing() == 2
  assert test.rows()['pairs']['a - c']['difference'] == pytest.approx(-0.5)


def test_what_a_model_adds_to_all_methods_hides_nothing():
  # Differences 1 and 3 over two models that lie 10 and 12 apart: mean 2,
  # deviation sqrt(2), over sqrt(2): t = 2 with one degree of freedom, whose
  # tails beyond 2 hold 1 - 2/pi atan(2).
  test = comparison.compare_within({'a': [0.0, 10.0], 'b': [1.0, 13.0]})
  assert test.pairs['a', 'b'][0] == -2.0
  expected = 1 - 2 / math.pi * math.atan(2)
  assert test.pairs['a', 'b'][1] == pytest.approx(expected, abs=1e-6)
  assert test.p == pytest.approx(expected)
  assert test.ratio == pytest.approx(4.0)
  # Half of the difference's variance, of two methods.
  assert test.spread == pytest.approx(1.0)


def test_three_methods_on_the_same_models():
  scores = {'a': [1.0, 5.0, 3.0], 'b': [3.0, 6.0, 6.0], 'c': [5.0, 10.0, 6.0]}
  # Means 3, 5, 7 of methods and 3, 7, 5 of models: left are 0, 0, 0; 0, -1, 1;
  # 0, 1, -1. Squares 4 over 4 degrees of freedom; between: 3 * (4 + 4) / 2.
  test = comparison.compare_within(scores)
  assert test.spread == pytest.approx(1.0)
  assert test.ratio == pytest.approx(12.0)
  # A table of the studentised range has 5.04 for three means, four degrees of
  # freedom and 5%: differences above 5.04 / sqrt(3) = 2.91.
  assert test.differ('a', 'c')
  assert not test.differ('a', 'b')
  # Without the models the same scores say nothing.
  assert comparison.compare(scores).num_differing() == 0
  assert comparison.compare_within({**scores, 'd': [0.0]}).pairs == test.pairs


@pytest.mark.parametrize('scores', [{}, {'a': [1.0, 2.0]}])
def test_too_few_scores_on_the_same_models_say_nothing(scores):
  assert comparison.compare_within(scores) is None


def test_one_seed_each_says_nothing():
  assert comparison.compare({'a': [1.0], 'b': [2.0]}) is None


def test_pairs_are_counted_by_the_published_order():
  scores = {
    'best': [1.0, 1.01],
    'second': [3.0, 3.01],
    'third': [2.0, 2.01],
    'fourth': [2.0, 2.01],
  }
  test = comparison.compare(scores)
  order = ['best', 'second', 'third', 'fourth', 'without_runs']
  counts = comparison.agreement(order, scores, test)
  assert counts == {'same': 3, 'opposite': 2, 'undecided': 1}
  nothing = comparison.agreement(order, scores, None)
  assert nothing == {'same': 0, 'opposite': 0, 'undecided': 6}


def test_cells():
  assert comparison.cell([]) == '-'
  assert comparison.cell([2.0]) == '2.000'
  assert comparison.cell([1.0, 3.0]) == '2.000 ± 1.414'
