"""Cosines of experts' weights, by hand."""

import dataclasses

import numpy as np
import pytest
from helpers import traced

from moejax.analysis.measures import weight_similarity


def measure(weights):
  traces = traced.one([[[0]]], num_experts=len(weights))
  traces = dataclasses.replace(traces, weights=[np.array(weights, np.float32)])
  return weight_similarity.weight_similarity(traces)['layer 0']


def test_equal_orthogonal_opposed_and_no_weights():
  row = measure([[1, 1, 0], [2, 2, 0], [0, 0, 5], [-1, -1, 0], [0, 0, 0]])
  matrix = np.array(row['matrix'], float)
  np.testing.assert_allclose(
    matrix[:4, :4],
    [[1, 1, 0, -1], [1, 1, 0, -1], [0, 0, 1, 0], [-1, -1, 0, 1]],
    atol=1e-6,
  )
  assert row['matrix'][4] == [None] * 5
  # Of 12 ordered pairs, 2 agree and 4 oppose each other.
  assert row['mean'] == pytest.approx(2 / 12)
  assert row['cosine'] == pytest.approx(-2 / 12)


def test_one_expert_is_like_no_other():
  assert measure([[1, 2]])['mean'] is None


def test_pieces_of_the_weights_add_up(monkeypatch):
  weights = np.random.default_rng(0).normal(size=(3, 50))
  whole = weight_similarity.cosines(weights)
  monkeypatch.setattr(weight_similarity, 'CHUNK', 7)
  np.testing.assert_allclose(
    weight_similarity.cosines(weights), whole, atol=1e-6
  )
