"""How many experts a domain uses, by hand."""

import math

import pytest
from helpers import traced

from moejax.analysis.measures.allocation_entropy import allocation_entropy


def test_entropy_by_domain_over_the_logarithm_of_experts():
  rows = allocation_entropy(
    traced.one(
      [
        [[0, 1], [0, 1], [3, 2]],
        [[2, 3], [0, 1], [3, 2]],
        [[0, -1], [0, -1], [-1, -1]],
      ],
      domains=('code', 'news', 'nothing'),
      domain_T=[0, 0, 1],
    )
  )
  # Code: all four experts; two of them, ln 2 / ln 4; news: one expert, or none.
  assert rows['layer 0'] == {
    'layer': 0,
    'code': 1,
    'news': 0,
    'nothing': None,
  }
  assert rows['layer 1']['code'] == pytest.approx(math.log(2) / math.log(4))
  assert rows['layer 2']['news'] is None
  assert rows['all layers']['code'] == pytest.approx(2 / 3)
  assert rows['last 2 layers']['code'] == pytest.approx(1 / 2)
  # Layers without an assignment are left out of the mean.
  assert rows['last 2 layers']['news'] == 0
