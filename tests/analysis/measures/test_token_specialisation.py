"""How far tokens keep to one expert, by hand."""

import pytest
from helpers import traced

from moejax.analysis.measures.token_specialisation import token_specialisation

TRACES = traced.one(
  # Token 5 chose 0, 0, 1 first; token 6 chose 2, 2; token 9 chose 3.
  [[[0, 2]], [[2, 0]], [[0, 2]], [[2, 0]], [[1, 0]], [[3, 0]]],
  token_T=[5, 6, 5, 6, 5, 9],
  document_T=[0, 0, 0, 1, 1, 1],
  position_T=[0, 1, 2, 0, 1, 2],
)


def test_the_share_of_an_ids_favourite_expert():
  row = token_specialisation(TRACES, floor=2)['layer 0']
  # 2/3 for token 5 and 1 for token 6; token 9 occurs once.
  assert row['input'] == pytest.approx((2 / 3 + 1) / 2)
  assert row['by_expert'] == [round(2 / 3, 5), None, 1, None]
  assert row['types'] == 2


def test_the_next_token_is_of_the_same_document():
  # Behind 5, 6 | 6, 5 of both documents: 6 follows expert 0; 5 follows 2, 2;
  # 9 follows 1. With two occurrences there is token 5 alone.
  row = token_specialisation(TRACES, floor=2)['layer 0']
  assert row['next'] == 1
  row = token_specialisation(TRACES, floor=1)['layer 0']
  assert row['next'] == 1
  assert row['input'] == pytest.approx((2 / 3 + 1 + 1) / 3)


def test_no_id_that_is_frequent_enough():
  row = token_specialisation(TRACES)['layer 0']
  assert (row['input'], row['next'], row['types']) == (None, None, 0)
  assert row['by_expert'] == [None] * 4
