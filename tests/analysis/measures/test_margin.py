"""The lead of the first expert over the second, by hand."""

import math

import pytest
from helpers import traced

from moejax.analysis.measures.margin import margin


def test_the_first_weight_minus_the_second():
  rows = margin(
    traced.one(
      [[[0, 1]], [[2, 3]], [[1, -1]]],
      weight_TNK=[[[0.75, 0.25]], [[0.5, 0.25]], [[1, 0]]],
      document_T=[0, 1, 1],
    )
  )
  # 1/2 and 1/4; the third token has no second expert.
  row = rows['step 1, layer 0']
  assert row['weight'] == 3 / 8
  assert (row['weight_low'], row['weight_high']) == (1 / 4, 1 / 2)
  assert 'probability' not in row


def test_one_expert_per_token_has_a_margin_of_probabilities_alone():
  logits = [math.log(p) for p in (0.1, 0.6, 0.3)]
  rows = margin(
    traced.one(
      [[[1]], [[-1]]], num_experts=3, logits_TNE=[[logits], [[0, 0, 9]]]
    )
  )
  row = rows['step 1, all layers']
  assert row['weight'] is None
  assert row['probability'] == pytest.approx(0.3)
