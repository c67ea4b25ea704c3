"""Experts that a token has in two layers, by hand."""

import pytest
from helpers import traced

from moejax.analysis.measures.layer_overlap import layer_overlap


def test_overlap_and_its_chance():
  rows = layer_overlap(
    traced.one(
      [[[0, 1], [0, 1], [0, 2]], [[0, 1], [2, 3], [3, 2]]], layers=(1, 2, 5)
    )
  )
  row = rows['step 1, layers 1 and 2']
  assert row['overlap'] == (2 + 0) / 2 / 2
  assert row['layer'] == 1
  # Layer 1 always chooses 0 and 1; layer 2 each expert every other time.
  assert row['chance'] == (1 * 1 / 2 + 1 * 1 / 2) / 2
  assert rows['step 1, layers 2 and 5']['overlap'] == (1 + 2) / 2 / 2
  # Then 2 always, 0 and 3 every other time: the same.
  assert rows['step 1, all layers']['chance'] == 1 / 2


def test_one_layer_has_no_overlap():
  rows = layer_overlap(traced.one([[[0, 1]]]))
  assert list(rows) == ['step 1, all layers']
  assert rows['step 1, all layers']['overlap'] is None


def test_tokens_without_an_expert_in_both_do_not_count():
  rows = layer_overlap(traced.one([[[-1], [-1]], [[0], [-1]], [[1], [1]]]))
  row = rows['step 1, layers 0 and 1']
  assert row['overlap'] == pytest.approx(1 / 2)
