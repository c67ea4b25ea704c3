"""Change rate in its three forms, by hand."""

from helpers import traced

from moejax.analysis.measures.change_rate import change_rate
from moejax.analysis.traces import Traces


def test_the_forms_differ_in_what_order_means():
  first = traced.trace([[[0, 1]], [[0, 1]], [[0, 1]]], step=10)
  then = traced.trace([[[1, 0]], [[0, 2]], [[0, 1]]], step=30)
  last = traced.trace([[[1, 0]], [[0, 2]], [[2, 3]]], step=40)
  rows = change_rate(Traces.of([first, then, last]))
  # New experts of 2: 0, 1 and 0. Ranks that differ of 2: 2, 1 and 0.
  row = rows['step 30, layer 0']
  assert abs(row['set'] - (0 + 1 + 0) / 2 / 3) < 1e-12
  assert abs(row['slot'] - (2 + 1 + 0) / 2 / 3) < 1e-12
  assert row['position'] == row['slot']
  assert (row['steps'], row['step']) == (20, 30)
  # From the checkpoint before, not from the first one.
  row = rows['step 40, all layers']
  assert abs(row['set'] - 1 / 3) < 1e-12
  assert row['steps'] == 10


def test_a_rank_that_is_no_longer_filled_has_changed_in_position_alone():
  first = traced.trace([[[0, 1]], [[2, -1]], [[-1, -1]]], step=1)
  then = traced.trace([[[0, -1]], [[2, 3]], [[1, -1]]], step=2)
  row = change_rate(Traces.of([first, then]))['step 2, layer 0']
  # Over the larger set: 1 of 2 is new, 1 of 2, 1 of 1.
  assert abs(row['set'] - (1 / 2 + 1 / 2 + 1) / 3) < 1e-12
  # One rank filled in both, unchanged; the third token has none.
  assert row['slot'] == 0
  # Of the earlier ranks, 1 of 2 keeps its expert, 1 of 1; none to keep.
  assert row['position'] == (1 / 2 + 0) / 2
