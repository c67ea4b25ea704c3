"""Every measure keeps the contract that moejax/analysis states."""

import json

import numpy as np
import pytest

from moejax.analysis import MEASURES
from moejax.analysis.statistics import RoutingStatistics

STATISTICS = RoutingStatistics(
  {
    'code': np.array([[1, 5, 0, 2], [0, 0, 4, 4]]),
    'bible': np.array([[3, 3, 0, 2], [8, 0, 0, 0]]),
  },
  first_layer=1,
)


@pytest.mark.parametrize('name', MEASURES)
def test_a_measure_gives_rows_that_json_takes(name):
  rows = MEASURES[name](STATISTICS)
  assert json.loads(json.dumps(rows)) == rows
  assert rows
  assert all(isinstance(row, dict) and row for row in rows.values())


@pytest.mark.parametrize('name', MEASURES)
def test_a_measure_of_experts_without_an_assignment_is_finite(name):
  nothing = RoutingStatistics({'code': np.zeros((1, 3), int)})
  json.dumps(MEASURES[name](nothing), allow_nan=False)


def test_layers_are_named_by_their_place_in_the_model():
  assert STATISTICS.layers == ['layer 1', 'layer 2']
