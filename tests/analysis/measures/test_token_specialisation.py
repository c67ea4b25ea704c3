"""How far tokens keep to one expert, by hand."""

import pytest
from helpers import traced

from moejax.analysis.measures.token_specialisation import token_specialisation

# The first experts of token 5 are 0, 1, 0 and those of token 6 are 2, 3, 2, 2.
EXPERTS = [[[0, 2]], [[2, 0]], [[1, 2]], [[3, 0]], [[2, 0]], [[0, 1]], [[2, 3]]]
TOKENS = [5, 6, 5, 6, 6, 5, 6]


def measure(floor, **text):
  traces = traced.one(EXPERTS, token_T=TOKENS, **text)
  return token_specialisation(traces, floor=floor)['layer 0']


def test_the_share_of_an_ids_favourite_expert():
  row = measure(floor=2)
  assert row['input'] == pytest.approx((2 / 3 + 3 / 4) / 2)
  assert row['by_expert'] == [round(2 / 3, 5), None, 3 / 4, None]
  assert row['types'] == 2
  row = measure(floor=4)
  assert (row['input'], row['types']) == (3 / 4, 1)
  assert row['by_expert'] == [None, None, 3 / 4, None]


@pytest.mark.parametrize(
  'text',
  [
    {'document_T': [0, 0, 0, 0, 1, 1, 1]},
    # A document that was cut at the end of a row of text.
    {'position_T': [0, 1, 2, 3, 0, 1, 2]},
  ],
  ids=['another document', 'another row'],
)
def test_the_next_token_is_of_the_same_text(text):
  # Behind 5 6 5 6 | 6 5 6: 6 comes after the experts 0, 1 and 0, and 5 after 2
  # and 2. The second half does not come behind the first, after expert 3.
  row = measure(floor=2, **text)
  assert row['next'] == pytest.approx((2 / 3 + 1) / 2)
  assert measure(floor=3, **text)['next'] == pytest.approx(2 / 3)


def test_an_occurrence_without_an_expert_does_not_count():
  traces = traced.one([[[0]], [[-1]], [[1]], [[1]]], token_T=[9, 9, 8, 8])
  row = token_specialisation(traces, floor=2)['layer 0']
  assert (row['input'], row['types']) == (1, 1)
  assert row['by_expert'] == [None, 1, None, None]


def test_no_id_that_is_frequent_enough():
  row = measure(floor=10)
  assert (row['input'], row['next'], row['types']) == (None, None, 0)
  assert row['by_expert'] == [None] * 4
