"""Router saturation by occurrence, by hand."""

from helpers import traced

from moejax.analysis.measures.saturation import saturation
from moejax.analysis.traces import Traces


def test_shares_of_the_final_experts_by_occurrence():
  # One layer, k = 2, tokens of two documents of two tokens each.
  early = traced.trace(
    [[[0, 1]], [[2, 3]], [[1, 0]], [[3, 2]]], step=10, document_T=[0, 0, 1, 1]
  )
  late = traced.trace(
    [[[0, 1]], [[2, 1]], [[0, 1]], [[0, 1]]], step=30, document_T=[0, 0, 1, 1]
  )
  rows = saturation(Traces.of([late, early]))
  # First experts agree for tokens 0 and 1. Of two experts, 2, 1, 2, 0 agree.
  row = rows['step 10, layer 0']
  assert row['top1'] == 2 / 4
  assert row['topk'] == (2 + 1 + 2 + 0) / 2 / 4
  assert (row['step'], row['tokens_seen'], row['layer']) == (10, 1000, 0)
  # The documents have 1 and 0 for top1: draws of two of them give 0, 1/2 or 1.
  assert (row['top1_low'], row['top1_high']) == (0, 1)
  # 3/4 and 1/2 for topk.
  assert (row['topk_low'], row['topk_high']) == (1 / 2, 3 / 4)
  # There is one layer to average; the last checkpoint has no row.
  assert rows['step 10, all layers'] == {**row, 'layer': None}
  assert len(rows) == 2


def test_the_mean_of_layers_weighs_each_layer_the_same():
  early = traced.trace([[[0], [1]], [[0], [1]]], step=1)
  late = traced.trace([[[0], [2]], [[0], [2]]], step=2)
  rows = saturation(Traces.of([early, late]))
  assert rows['step 1, layer 0']['topk'] == 1
  assert rows['step 1, layer 1']['topk'] == 0
  assert rows['step 1, all layers']['topk'] == 1 / 2
  # One document: there is nothing to draw.
  assert rows['step 1, all layers']['topk_low'] is None


def test_other_numbers_of_experts_per_token():
  early = traced.trace([[[0, 1, 2]], [[-1, -1, -1]], [[1, -1, -1]]], step=1)
  late = traced.trace([[[0, -1, -1]], [[-1, -1, -1]], [[-1, -1, -1]]], step=2)
  row = saturation(Traces.of([early, late]))['step 1, layer 0']
  # 1 of the larger set of 3; no expert in both: left out; 0 of 1.
  assert abs(row['topk'] - (1 / 3 + 0) / 2) < 1e-12
  assert row['top1'] == 1 / 2


def test_experts_beyond_the_64th_are_others():
  # 1, 65 and 129 are the same bit of three words.
  early = traced.trace([[[1, 65]], [[129, 1]]], num_experts=130, step=1)
  late = traced.trace([[[65, 129]], [[1, 129]]], num_experts=130, step=2)
  row = saturation(Traces.of([early, late]))['step 1, layer 0']
  assert row['topk'] == (1 / 2 + 1) / 2
  assert row['top1'] == 0
