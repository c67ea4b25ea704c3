"""How evenly a token weighs its experts, by hand."""

import math

import pytest
from helpers import traced

from moejax.analysis.measures.gate_entropy import gate_entropy


def test_weights_are_scaled_to_sum_1():
  rows = gate_entropy(
    traced.one(
      [[[0, 1]], [[2, 3]], [[1, -1]], [[-1, -1]]],
      # Equal; 3/4 and 1/4; one expert; none.
      weight_TNK=[[[0.2, 0.2]], [[3.0, 1.0]], [[0.5, 0]], [[0, 0]]],
    )
  )
  row = rows['step 1, layer 0']
  nats = [math.log(2), math.log(4) - 0.75 * math.log(3), 0]
  assert row['nats'] == pytest.approx(sum(nats) / 3)
  # A token with one expert has no entropy to normalise.
  assert row['normalised'] == pytest.approx(sum(nats) / math.log(2) / 2)


def test_each_token_is_normalised_by_its_own_number_of_experts():
  rows = gate_entropy(traced.one([[[0, 1, 2]], [[0, 1, -1]]]))
  row = rows['step 1, all layers']
  assert row['normalised'] == pytest.approx(1)
  assert row['nats'] == pytest.approx((math.log(3) + math.log(2)) / 2)


def test_one_expert_per_token_has_nothing_to_normalise():
  row = gate_entropy(traced.one([[[0]], [[1]]]))['step 1, layer 0']
  assert row['nats'] == 0
  assert row['normalised'] is None
