"""Experts that are chosen together, by hand."""

import numpy as np
import pytest
from helpers import traced

from moejax.analysis import expert_sets
from moejax.analysis.measures import coactivation
from moejax.analysis.traces import Traces

EXPERTS = [[[0, 1, 2]], [[1, 0, -1]], [[0, 2, -1]], [[0, -1, -1]]]


def test_shares_of_the_tokens_of_an_expert():
  row = coactivation.coactivation(traced.one(EXPERTS))['layer 0']
  # N_0 = 4, N_1 = N_2 = 2, N_01 = N_02 = 2, N_12 = 1; nobody chose 3.
  assert row['count'] == [4, 2, 2, 0]
  assert row['matrix'] == [
    [1, 2 / 4, 2 / 4, 0],
    [1, 1, 1 / 2, 0],
    [1, 1 / 2, 1, 0],
    [None, None, None, None],
  ]
  assert row['largest'] == 1
  # 2 experts a token: (2 - 1) / (4 - 1).
  assert row['chance'] == pytest.approx(1 / 3)
  assert row['strongest'][:3] == [[1, 0, 1.0], [2, 0, 1.0], [0, 1, 0.5]]


def test_adjacent_ranks_alone():
  row = coactivation.coactivation(traced.one(EXPERTS), adjacent=True)
  # 0 and 2 are not side by side in the first token.
  assert row['layer 0']['matrix'][0] == [1, 2 / 4, 1 / 4, 0]


def test_an_expert_that_a_token_has_twice_counts_once():
  row = coactivation.coactivation(traced.one([[[1, 1, 0]]]))['layer 0']
  assert row['count'] == [1, 1, 0, 0]
  assert row['matrix'][0] == [1, 1, 0, 0]


def test_one_expert_per_token_is_chosen_alone():
  row = coactivation.coactivation(traced.one([[[1]]]))['layer 0']
  assert row['matrix'][1] == [0, 1, 0, 0]
  assert (row['strongest'], row['largest']) == ([], None)


@pytest.mark.parametrize('k', [2, 5])
def test_both_ways_of_counting_pairs_agree(k, monkeypatch):
  monkeypatch.setattr(coactivation, 'CHUNK', 7)
  trace = traced.random(k=k)
  expert_KT = expert_sets.of_layer(trace, 1)
  slow = np.zeros((6, 6))
  for experts in expert_KT.T:
    for i in experts[experts >= 0]:
      for j in experts[experts >= 0]:
        slow[i, j] += i != j
  product = coactivation._masks_product(expert_KT, 6)
  np.fill_diagonal(product, 0)
  np.testing.assert_array_equal(product, slow)
  rows = coactivation.coactivation(Traces.of([trace]))
  matrix = np.array(rows['layer 1']['matrix'])
  count = np.array(rows['layer 1']['count'])
  np.fill_diagonal(matrix, 0)
  np.testing.assert_allclose(matrix * count[:, None], slow, atol=1e-3)
