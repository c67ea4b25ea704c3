"""Measures leave out the experts that a layer does not have."""

import dataclasses

import numpy as np
import pytest
from helpers import traced, traces

from moejax.analysis import MEASURES, trace_file
from moejax.analysis.statistics import RoutingStatistics
from moejax.analysis.traces import ExpertOutputs, Traces

# Of seven places, the experts that the only layer has.
OWN, PLACES = (1, 4, 6), 7
NUMBER = {expert: number for number, expert in enumerate(OWN)}


def pair():
  """Traces of two checkpoints; a layer of three experts."""
  return [
    traced.random(200, 1, 2, len(OWN), step=step, seed=3) for step in (1, 2)
  ]


def spread(trace):
  """The same trace of a layer with seven places, four of them empty."""
  expert_TNK = np.array([*OWN, -1], np.int16)[trace.expert_TNK]
  return dataclasses.replace(
    trace, num_experts=PLACES, expert_TNK=expert_TNK, in_use=(OWN,)
  )


def inputs(kind, name):
  """The argument of a measure, of three experts or of seven places."""
  is_spread = kind == 'spread'
  place, num = (OWN, PLACES) if is_spread else (slice(None), len(OWN))
  if MEASURES[name].needs == 'counts':
    has_NE = np.isin(np.arange(PLACES), OWN)[None] if is_spread else None
    counts = {}
    for domain, count in (('code', [5, 0, 3]), ('news', [2, 1, 0])):
      counts[domain] = np.zeros((1, num), int)
      counts[domain][:, place] = count
    return RoutingStatistics(counts, has_NE=has_NE)
  each = [spread(x) if is_spread else x for x in pair()]
  # Weights of empty places are there and mean nothing.
  weights = np.full((1, num, 5), 9.0)
  weights[:, place] = np.random.default_rng(0).normal(size=(1, len(OWN), 5))
  last = each[-1]
  outputs = ExpertOutputs(
    0,
    last.expert_TNK[:, 0],
    np.random.default_rng(0).normal(size=(200, 2, 3)),
    last.document_T,
  )
  return Traces.of(each, weights=weights, outputs=[outputs])


def own(value):
  """A value of seven places with those of the layer's experts alone."""
  if isinstance(value, dict):
    return {key: own(one) for key, one in value.items()}
  if not isinstance(value, list):
    return value
  if len(value) == PLACES:
    missing = [value[i] for i in range(PLACES) if i not in OWN]
    # An empty place has no number, and no token.
    assert all(one in (None, 0) or one == [None] * PLACES for one in missing), (
      value
    )
    value = [value[i] for i in OWN]
  return [own(one) for one in value]


def renumbered(name, rows):
  """Rows whose numbers of experts are those among the layer's own."""
  result = {}
  for key, row in own(rows).items():
    if row.get('expert') is not None:
      row['expert'] = NUMBER[row['expert']]
    if name == 'vocabulary':
      key = f'layer {row["layer"]}, expert {row["expert"]}'
    if name == 'coactivation':
      row['strongest'] = [
        [NUMBER[i], NUMBER[j], value] for i, j, value in row['strongest']
      ]
    if name == 'top_experts':
      row = {
        domain: [[NUMBER[e], share] for e, share in tops]
        for domain, tops in row.items()
      }
    result[key] = row
  return result


@pytest.mark.parametrize('name', MEASURES)
def test_a_measure_is_that_of_a_layer_with_its_own_experts_alone(name):
  want = MEASURES[name](inputs('alone', name))
  got = renumbered(name, MEASURES[name](inputs('spread', name)))
  assert got == want


def test_a_layer_with_one_expert_lists_no_expert_that_it_does_not_have():
  statistics = RoutingStatistics(
    {'code': np.array([[0, 3]])}, has_NE=np.array([[False, True]])
  )
  rows = MEASURES['top_experts'](statistics)
  assert rows == {'layer 0': {'code': [[1, 1.0]]}}


def test_a_trace_file_keeps_which_experts_its_layers_have(tmp_path):
  own = ((0, 1, 2, 3, 4, 5), (0, 3))
  written = dataclasses.replace(traces.made_up(), in_use=own)
  path = traces.write(tmp_path / 'a.parquet', [written], in_use=own)
  file = trace_file.TraceFile(path)
  assert file.header.in_use == own
  assert file.read().in_use == own
  # Layer 3 is the second.
  some = file.read([3])
  assert some.in_use == ((0, 3),)
  np.testing.assert_array_equal(some.has(0), [1, 0, 0, 1, 0, 0])


def test_headers_from_before_say_that_layers_have_all():
  header = traces.header(traces.made_up())
  text = header.to_json().replace(', "in_use": []', '')
  assert 'in_use' not in text
  assert trace_file.Header.from_json(text) == header
