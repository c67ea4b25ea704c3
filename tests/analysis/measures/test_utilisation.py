"""How evenly experts are used, by hand."""

import math

import pytest
from helpers import traced

from moejax.analysis.measures.utilisation import utilisation


def test_counts_of_4_2_2_0():
  # Layer 1 of the model, 4 tokens with 2 experts of 4.
  rows = utilisation(
    traced.one(
      [[[0, 1]], [[0, 1]], [[0, 2]], [[0, 2]]],
      layers=(1,),
      dropped_TNK=[[[0, 1]], [[0, 0]], [[0, 0]], [[0, 1]]],
    )
  )
  assert rows == {
    'step 1, layer 1': {
      'step': 1,
      'tokens_seen': 100,
      'layer': 1,
      'jain': 8**2 / (4 * (16 + 4 + 4)),
      # 1/2 ln 2 + 2 * 1/4 ln 4 = 3/2 ln 2, over ln 4.
      'entropy': pytest.approx(3 / 4),
      'dead': 1,
      'max': 2.0,
      'min': 0.0,
      'dropped': 2 / 8,
      'load': [2.0, 1.0, 1.0, 0.0],
    }
  }


def test_empty_ranks_are_not_counted():
  row = utilisation(traced.one([[[1, -1]], [[2, 1]], [[-1, -1]]]))
  (row,) = row.values()
  # 0, 2, 1 and 0 assignments.
  assert row['jain'] == pytest.approx(9 / (4 * 5))
  assert row['entropy'] == pytest.approx(
    (2 / 3 * math.log(3 / 2) + 1 / 3 * math.log(3)) / math.log(4)
  )
  assert row['dead'] == 2


def test_no_assignment_and_one_expert_have_no_entropy():
  (row,) = utilisation(traced.one([[[-1]]])).values()
  assert (row['jain'], row['entropy'], row['dead']) == (None, None, 4)
  (row,) = utilisation(traced.one([[[0]]], num_experts=1)).values()
  assert (row['jain'], row['entropy'], row['dead']) == (1, None, 0)
