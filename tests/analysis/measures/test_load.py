"""How evenly experts are used, by hand."""

import numpy as np

from moejax.analysis.measures import load
from moejax.analysis.statistics import RoutingStatistics


def test_loads_are_over_the_mean_of_all_texts():
  code, bible = np.array([[1, 5, 0, 2]]), np.array([[3, 3, 0, 2]])
  # Together 4, 8, 0 and 4, whose mean is 4.
  statistics = RoutingStatistics({'code': code, 'bible': bible})
  assert load.load(statistics) == {
    'layer 0': {'max': 2.0, 'min': 0.0, 'unused': 1}
  }
