"""BLiMP: items and scores by hand, and its 67 phenomena."""

import pytest
from helpers.benchmark_cases import Case, check

from moejax.evals.benchmark import Choice
from moejax.evals.benchmarks.grammar import PHENOMENA, ROWS


def row(good, bad, phenomenon):
  return {
    'sentence_good': good,
    'sentence_bad': bad,
    'field': 'morphology',
    'linguistics_term': 'agreement',
    'UID': phenomenon,
    'simple_LM_method': True,
    'one_prefix_method': False,
    'two_prefix_method': False,
    'lexically_identical': False,
    'pair_id': 0,
  }


BLIMP = [
  row('The cats sleep.', 'The cats sleeps.', 'passive_1'),
  row('The dogs run.', 'The dogs runs.', 'passive_1'),
  row('No one has ever left.', 'Some one has ever left.', 'npi_present_1'),
]


def items(space):
  return [
    Choice(
      ('', ''),
      (space + each['sentence_good'], space + each['sentence_bad']),
      0,
      (each['sentence_good'], each['sentence_bad']),
      each['UID'],
    )
    for each in BLIMP
  ]


# The first pair is right, the second a tie, the third wrong.
LOG_PROBS = {
  'The cats sleep.': -9.0,
  'The cats sleeps.': -9.5,
  'The dogs run.': -8.0,
  'The dogs runs.': -8.0,
  'No one has ever left.': -13.0,
  'Some one has ever left.': -12.0,
}

CASES = [
  # A tie counts for the first sentence, which is the good one.
  Case(
    'lm_eval',
    'blimp',
    BLIMP,
    items(' '),
    {f' {text}': (value, 5) for text, value in LOG_PROBS.items()},
    0.5,
  ),
  Case(
    'libmoe',
    'blimp',
    BLIMP,
    items(''),
    {text: (value, 5) for text, value in LOG_PROBS.items()},
    0.25,
  ),
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_items_and_score(case):
  check(case)


def test_the_phenomena_are_67_in_order():
  assert len(set(PHENOMENA)) == 67
  assert list(PHENOMENA) == sorted(PHENOMENA)
  assert ROWS.configs == PHENOMENA
