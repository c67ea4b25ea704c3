"""Paired tests over seeds, against SciPy's and against numbers by hand."""

import itertools

import numpy as np
import pytest
import scipy.stats

from moejax.sweep import comparison, paired


def test_pairs_are_over_the_seeds_that_both_have():
  row = paired.difference({0: 3.0, 1: 5.0, 2: 9.0}, {1: 4.0, 0: 1.0})
  # Differences 2 and 1: mean 1.5, deviation 1/sqrt(2), over sqrt(2).
  assert row == {'difference': 1.5, 'error': pytest.approx(0.5), 'n': 2}
  alone = paired.difference({0: 3.0}, {0: 1.0})
  assert alone == {'difference': 2.0, 'error': None, 'n': 1}
  assert paired.difference({0: 3.0}, {1: 1.0})['n'] == 0


@pytest.mark.parametrize('num', [2, 3, 8])
def test_the_t_test_is_that_of_scipy(num):
  rng = np.random.default_rng(num)
  one_S, other_S = rng.normal(1, 1, num), rng.normal(0, 2, num)
  p, low, high = paired.t_test([*(one_S - other_S)])
  wanted = scipy.stats.ttest_rel(one_S, other_S)
  assert p == pytest.approx(wanted.pvalue)
  ends = wanted.confidence_interval(0.95)
  assert (low, high) == pytest.approx((ends.low, ends.high))


def test_differences_that_are_all_equal_leave_no_doubt():
  assert paired.t_test([0.0, 0.0, 0.0]) == (1.0, 0.0, 0.0)
  assert paired.t_test([0.5, 0.5]) == (0.0, 0.5, 0.5)


@pytest.mark.parametrize('num', [2, 5, 9])
def test_flips_of_signs_are_those_of_scipy(num):
  rng = np.random.default_rng(num)
  one_S, other_S = rng.normal(1, 1, num), rng.normal(0, 1, num)
  wanted = scipy.stats.permutation_test(
    (one_S, other_S),
    lambda x, y, axis: np.mean(x - y, axis=axis),
    permutation_type='samples',
    n_resamples=np.inf,
    vectorized=True,
  )
  assert paired.sign_flips([*(one_S - other_S)]) == pytest.approx(wanted.pvalue)


def test_flips_of_signs_by_hand():
  # Of 1 + 2 + 3 only the sums 6 and -6 are as far from 0.
  assert paired.sign_flips([1, 2, 3]) == 2 / 8
  # Sums of 1, 2 and -3: 0 is reached by all.
  assert paired.sign_flips([1, 2, -3]) == 1
  # 0.1 + 0.2 + 0.3 is not 0.6 to the bit, and its mirror image counts.
  assert paired.sign_flips([0.1, 0.2, 0.3]) == 2 / 8
  assert paired.sign_flips([1.0] * 20) == 2 / 2**20
  assert paired.sign_flips([1.0] * 21) is None
  assert paired.fewest_seeds() == 6  # 2 / 64 is 0.031, 2 / 32 is 0.0625


def test_holm_by_hand():
  # Sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 is no less than 0.06, 0.5 * 1.
  found = paired.holm([0.03, 0.5, 0.01, 0.02])
  assert found == pytest.approx([0.06, 0.5, 0.04, 0.06])
  assert paired.holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
  assert paired.holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
  assert paired.holm([]) == []


def test_holm_holds_the_level_for_configs_that_are_the_same():
  """Of 400 sweeps of four equal configs, about 5% or fewer find a pair."""
  rng, found = np.random.default_rng(0), 0
  for _ in range(400):
    scores = {name: dict(enumerate(rng.normal(size=4))) for name in 'abcd'}
    found += any(pair.holm < 0.05 for pair in paired.pairs(scores))
  # 5% are 20; three standard deviations above it are 33.
  assert found <= 33


SCORES = {
  'a': {0: 2.0, 1: 2.1, 2: 2.2},
  'b': {0: 2.5, 1: 2.59, 2: 2.71},
  'c': {0: 2.0, 1: 2.3, 2: 2.1},
  'one': {0: 1.0},
}


def test_pairs_are_corrected_together_and_the_surest_is_first():
  found = paired.pairs(SCORES)
  names = [(pair.one, pair.other) for pair in found]
  assert {*names} == {*itertools.combinations('abc', 2)}
  assert names[0] == ('a', 'b')
  assert [pair.p for pair in found] == sorted(pair.p for pair in found)
  assert [p.holm for p in found] == paired.holm([p.p for p in found])
  first = found[0]
  assert first.difference == pytest.approx(-0.5)
  assert first.holm == pytest.approx(3 * first.p)
  assert (first.num, first.flips) == (3, 0.25)
  assert first.low < first.difference < first.high


def test_against_one_config_fewer_pairs_are_corrected():
  found = paired.pairs(SCORES, 'b')
  assert [(pair.one, pair.other) for pair in found] == [('a', 'b'), ('c', 'b')]
  assert found[0].holm == pytest.approx(2 * found[0].p)
  assert paired.pairs(SCORES, 'one') == []


def _results(scores, **more):
  return [
    {'group': name, 'seed': seed, 'status': 'finished', 'loss': x, **more}
    for name, seeds in scores.items()
    for seed, x in seeds.items()
  ]


def test_what_is_said_of_pairs():
  said = comparison.Comparison(_results(SCORES), 'loss').sentences()
  assert said[0].startswith('1 of 3 pairs of rows differs in loss (p of a')
  assert said[1].startswith('3 seeds are few:')
  assert 'cannot come below 0.25; from 6 seeds on' in said[1]
  many = {
    name: {i: i + x for i in range(6)} for name, x in (('a', 0), ('b', 1))
  }
  said = comparison.Comparison(_results(many), 'loss').sentences()
  assert len(said) == 1
  assert said[0].startswith('1 of 1 pair of rows differs')
  alone = {'a': {0: 1.0}, 'b': {0: 2.0, 1: 2.0}}
  (line,) = comparison.Comparison(_results(alone), 'loss').sentences()
  assert line.startswith('No two rows have two seeds in common, so nothing is')
  assert comparison.Comparison(_results({'a': {0: 1.0}}), 'loss').pairs == []


def test_the_tables_have_the_same_cells():
  made = comparison.Comparison(_results(SCORES), 'loss')
  (row, *_) = made.rows()
  assert row[:2] == ['a - b', '-0.5000']
  assert row[3] == '3'
  assert row[-1] == '0.250'
  lines = made.markdown().splitlines()
  cells = [[c.strip() for c in line.split('|')[1:-1]] for line in lines]
  assert row in cells
  html = made.html()
  assert all(f'<td>{cell}</td>' in html for cell in row[1:4])
  assert len(made.rows()) == len(made.numbers()) == 3


def test_budgets_that_are_not_equal_are_named():
  def said(*budgets):
    runs = _results({'a': {0: 1.0}})
    results = [run | budget for run in runs for budget in budgets]
    return comparison.Comparison(results, 'loss').sentences()[0]

  one = {'tokens': 1000, 'flops': 2e12, 'active': 970_000}
  assert said(one, one | {'active': 1_000_000}) == (
    'All finished runs have equal budgets: 1,000 tokens; 2e+12 FLOPs of '
    'training; 1,000,000 active parameters (3.0% apart).'
  )
  text = said(one, one | {'flops': 2.5e12, 'tokens': 1060})
  assert '1,000 to 1,060 tokens; 2e+12 to 2.5e+12 FLOPs of training;' in text
  assert text.endswith('not equal in tokens and FLOPs of training.')
  # What an earlier version did not report is left out.
  assert said(one, one | {'flops': None}).startswith(
    'All finished runs have equal budgets: 1,000 tokens; 970,000 active'
  )


def test_runs_that_computed_in_two_types_are_told_apart():
  def said(*types):
    results = [
      run | {'name': f'run-{n}', 'chosen_dtype': dtype}
      for run in _results({'a': {0: 1.0}})
      for n, dtype in enumerate(types)
    ]
    return comparison.Comparison(results, 'loss').sentences()

  assert said('bfloat16', 'bfloat16', None) == said(None) == []
  (text,) = said('bfloat16', 'float32', None, 'bfloat16', 'bfloat16', 'float32')
  assert text == (
    'model.dtype=auto stood for float32 in 2 of the finished runs (first '
    'run-1) and for bfloat16 in the others, so that differences may be those '
    'of rounding; with --config.model.dtype=bfloat16 a sweep computes in one '
    'type.'
  )
