"""Cosines of outputs of a token's experts, by hand."""

import dataclasses

import numpy as np
import pytest
from helpers import traced

from moejax.analysis.measures.output_similarity import output_similarity
from moejax.analysis.traces import ExpertOutputs


def measure(*batches):
  traces = traced.one([[[0, 1], [0, 1]]])
  outputs = [
    ExpertOutputs(
      layer,
      np.array(experts, np.int16),
      np.array(values, np.float32),
      np.array(documents),
    )
    for layer, experts, values, documents in batches
  ]
  return output_similarity(dataclasses.replace(traces, outputs=iter(outputs)))


def test_cosines_below_0_count_as_0():
  # Three tokens in two batches: cosines 1 (experts 0 and 1), -1 (0 and 2), and
  # 3/5 (0 and 1).
  rows = measure(
    (0, [[0, 1], [0, 2]], [[[1, 0], [3, 0]], [[1, 1], [-2, -2]]], [4, 4]),
    (0, [[1, 0]], [[[1, 0], [3, 4]]], [7]),
  )
  row = rows['layer 0']
  assert row['mean'] == pytest.approx((1 + 0 + 3 / 5) / 3)
  # Documents 4 and 7 have 1/2 and 3/5.
  assert row['mean_low'] == pytest.approx(1 / 2)
  assert row['mean_high'] == pytest.approx(3 / 5)
  assert row['matrix'][0] == [None, 0.8, -1, None]
  assert row['matrix'][1] == [0.8, None, None, None]
  # No batch of the other layer.
  assert rows['layer 1']['mean'] is None


def test_the_pairs_of_a_token_with_three_experts():
  axes = np.eye(3)
  values = [[axes[0], axes[0], axes[1]], [axes[0], axes[1], axes[2]]]
  rows = measure((1, [[0, 1, 2], [3, -1, -1]], values, [0, 0]))
  # One of three pairs agrees; the second token has one expert.
  assert rows['layer 1']['mean'] == pytest.approx(1 / 3)
