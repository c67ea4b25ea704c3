"""The experts that a text uses most, by hand."""

import numpy as np

from moejax.analysis.measures import top_experts
from moejax.analysis.statistics import RoutingStatistics


def test_the_two_most_used_with_their_shares():
  code = np.array([[1, 5, 0, 2], [0, 0, 4, 4]])
  bible = np.array([[3, 3, 0, 2], [8, 0, 0, 0]])
  statistics = RoutingStatistics({'code': code, 'bible': bible}, first_layer=1)
  # Of 8 assignments in each layer; the first of two equal ones comes first.
  assert top_experts.top_experts(statistics) == {
    'layer 1': {
      'code': [[1, 5 / 8], [3, 2 / 8]],
      'bible': [[0, 3 / 8], [1, 3 / 8]],
    },
    'layer 2': {
      'code': [[2, 4 / 8], [3, 4 / 8]],
      'bible': [[0, 1.0], [1, 0.0]],
    },
  }
