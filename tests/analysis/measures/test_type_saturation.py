"""Router saturation by token type, by hand."""

from helpers import traced

from moejax.analysis.measures.type_saturation import type_saturation
from moejax.analysis.traces import Traces

# Token 7 occurs three times, token 9 twice, token 5 once.
TOKENS = [7, 7, 7, 9, 9, 5]


def test_the_experts_of_a_type_are_those_it_chose_most():
  early = traced.trace(
    [[[0, 1]], [[0, 2]], [[0, 1]], [[1, 2]], [[2, 3]], [[3, 0]]],
    step=1,
    token_T=TOKENS,
  )
  late = traced.trace(
    [[[1, 0]], [[1, 2]], [[1, 0]], [[2, 1]], [[2, 1]], [[0, 1]]],
    step=2,
    token_T=TOKENS,
  )
  traces = Traces.of([early, late])
  # Counts of experts 0 to 3:  early         late
  #   token 7                  3 2 1 0: 0 1  2 3 1 0: 1 0   2 of 2, first no
  #   token 9                  0 1 2 1: 2 1  0 2 2 0: 1 2   2 of 2, first no
  #   token 5                  1 0 0 1: 0 3  1 1 0 0: 0 1   1 of 2, first yes
  row = type_saturation(traces)['step 1, layer 0']
  assert abs(row['topk'] - (2 + 2 + 1) / 2 / 3) < 1e-12
  assert abs(row['top1'] - 1 / 3) < 1e-12
  assert row['types'] == 3
  assert type_saturation(traces)['step 1, all layers'] == row | {'layer': None}
  # The two most frequent types alone.
  row = type_saturation(traces, types=2)['step 1, layer 0']
  assert (row['topk'], row['top1'], row['types']) == (1, 0, 2)


def test_an_expert_that_a_type_never_chose_is_not_among_its_experts():
  early = traced.trace([[[0, -1]], [[-1, -1]]], step=1)
  late = traced.trace([[[3, 0]], [[-1, -1]]], step=2)
  row = type_saturation(Traces.of([early, late]))['step 1, layer 0']
  # {0} against {0, 3}; the other type has no expert and does not count.
  assert row['topk'] == 1 / 2
  assert row['top1'] == 1
