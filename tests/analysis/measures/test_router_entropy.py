"""Entropy of the router by frequency and by position, by hand."""

import numpy as np
import pytest
from helpers import traced

from moejax.analysis.measures.router_entropy import (
  entropy_by_frequency,
  entropy_by_position,
)


def test_bins_of_counts_double():
  rows = entropy_by_frequency(
    traced.one(
      np.zeros((6, 2, 1)),
      # Once, twice, and three times.
      token_T=[4, 8, 8, 9, 9, 9],
      entropy_TN=[[1, 2], [3, 3], [1, 1], [0, 0], [1, 1], [np.nan, 4]],
      document_T=[0, 0, 0, 1, 1, 1],
    )
  )
  assert list(rows) == ['occurrences 1', 'occurrences 2 to 3']
  assert rows['occurrences 1'] == {
    'from': 1,
    'to': 1,
    'tokens': 1,
    'types': 1,
    'entropy': 1.5,
    'entropy_low': 1.5,
    'entropy_high': 1.5,
    'by_layer': [1, 2],
  }
  row = rows['occurrences 2 to 3']
  assert (row['tokens'], row['types']) == (5, 2)
  # Layer 0 has 3, 1, 0, 1 and no number; layer 1 has 3, 1, 0, 1, 4.
  assert row['by_layer'] == [5 / 4, 9 / 5]
  assert row['entropy'] == pytest.approx((5 / 4 + 9 / 5) / 2)


def test_bins_of_positions():
  rows = entropy_by_position(
    traced.one(
      np.zeros((5, 1, 1)),
      position_T=[0, 1, 2, 3, 0],
      entropy_TN=[[1], [2], [4], [8], [3]],
    )
  )
  assert {name: row['entropy'] for name, row in rows.items()} == {
    'position 0': 2,
    'position 1 to 2': 3,
    'position 3 to 6': 8,
  }
