"""Every measure keeps the contract that moejax/analysis states."""

import dataclasses
import json

import numpy as np
import pytest
from helpers import traced

from moejax.analysis import MEASURES
from moejax.analysis.measure import SOURCES
from moejax.analysis.statistics import RoutingStatistics
from moejax.analysis.traces import ExpertOutputs, Traces

STATISTICS = RoutingStatistics(
  {
    'code': np.array([[1, 5, 0, 2], [0, 0, 4, 4]]),
    'bible': np.array([[3, 3, 0, 2], [8, 0, 0, 0]]),
  },
  first_layer=1,
)


def _outputs(trace):
  """Outputs of the experts of a trace, drawn at random."""
  rng = np.random.default_rng(0)
  for n in range(len(trace.layers)):
    expert_TK = trace.expert_TNK[:, n]
    values = rng.normal(size=(*expert_TK.shape, 3))
    yield ExpertOutputs(n, expert_TK, values, trace.document_T)


def _traces(*traces):
  """Traces with weights and outputs, so that every measure can read them."""
  last = traces[-1]
  size = (len(last.layers), last.num_experts, 5)
  weights = np.random.default_rng(0).normal(size=size)
  return Traces.of(traces, weights=weights, outputs=_outputs(last))


def _rows(name, *traces):
  if MEASURES[name].needs == 'counts':
    return MEASURES[name](STATISTICS)
  return MEASURES[name](_traces(*traces))


def _pair(**fields):
  return [traced.random(step=step, **fields) for step in (1, 2)]


@pytest.mark.parametrize('name', MEASURES)
def test_a_measure_gives_rows_that_json_takes(name):
  rows = _rows(name, *_pair(tokens=200))
  assert json.loads(json.dumps(rows, allow_nan=False)) == rows
  assert rows
  assert all(isinstance(row, dict) and row for row in rows.values())
  assert MEASURES[name].needs in SOURCES


@pytest.mark.parametrize('name', MEASURES)
def test_a_measure_of_experts_without_an_assignment_is_finite(name):
  if MEASURES[name].needs == 'counts':
    nothing = RoutingStatistics({'code': np.zeros((1, 3), int)})
    json.dumps(MEASURES[name](nothing), allow_nan=False)
    return
  none = [
    dataclasses.replace(
      trace,
      expert_TNK=np.full_like(trace.expert_TNK, -1),
      weight_TNK=np.zeros_like(trace.weight_TNK),
      entropy_TN=np.full_like(trace.entropy_TN, np.nan),
    )
    for trace in _pair()
  ]
  json.dumps(MEASURES[name](_traces(*none)), allow_nan=False)


@pytest.mark.parametrize(
  'fields',
  [
    {'tokens': 0},
    {'tokens': 1},
    {'k': 1},
    {'documents': 1},
    {'num_experts': 1, 'k': 1},
    {'num_experts': 70, 'k': 70},
    {'layers': 1},
  ],
  ids=str,
)
@pytest.mark.parametrize(
  'name', [name for name in MEASURES if MEASURES[name].needs != 'counts']
)
def test_a_measure_of_an_unusual_trace_is_finite(name, fields):
  json.dumps(MEASURES[name](_traces(*_pair(**fields))), allow_nan=False)


@pytest.mark.parametrize(
  'name', [name for name in MEASURES if MEASURES[name].needs != 'counts']
)
def test_intervals_hold_their_means(name):
  rows = MEASURES[name](_traces(*_pair(tokens=200)))
  for row in rows.values():
    for column in [x.removesuffix('_low') for x in row if x.endswith('_low')]:
      low, mean, high = (
        np.array(row[key], float)
        for key in (f'{column}_low', column, f'{column}_high')
      )
      assert np.all(low <= mean)
      assert np.all(mean <= high)


@pytest.mark.parametrize(
  'name', [name for name in MEASURES if MEASURES[name].needs != 'counts']
)
def test_a_measure_leaves_its_traces_as_they_are(name):
  first, second = _pair()
  before = first.expert_TNK.copy(), second.expert_TNK.copy()
  MEASURES[name](_traces(first, second))
  np.testing.assert_array_equal(first.expert_TNK, before[0])
  np.testing.assert_array_equal(second.expert_TNK, before[1])


def test_layers_are_named_by_their_place_in_the_model():
  assert STATISTICS.layers == ['layer 1', 'layer 2']
