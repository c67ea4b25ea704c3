"""Overlap of the experts that a token has in consecutive layers."""

import numpy as np

from moejax.analysis import bootstrap, expert_sets, rows
from moejax.analysis.measure import Rows
from moejax.analysis.trace import Trace
from moejax.analysis.traces import Traces


def layer_overlap(traces: Traces) -> Rows:
  """By checkpoint and pair of layers, |E_i(l) and E_i(l+1)| / k, by number.

  A mean over tokens; where the numbers of experts differ, k is the larger.
  `chance` is its value if the choices of the two layers were independent, each
  with its own loads: sum_e P_l(e) P_l+1(e) / k. The numbers of experts mean
  nothing across layers, unless a router hands state on (ReXMoE, gating
  residuals) or hashes tokens, so that chance is what to expect. None in a model
  with one layer of experts. Source: the layer similarity of LibMoE's code.
  """
  result: Rows = {}
  for i in range(len(traces.each)):
    trace = traces.each[i]
    overlap = bootstrap.LayerSums(traces.documents)
    chance: list[float] = []
    names: dict[int, str] = {}
    before: tuple[np.ndarray, np.ndarray] | None = None
    for n, layer in enumerate(trace.layers):
      expert_KT = expert_sets.of_layer(trace, n)
      layer_set = (
        expert_sets.bits(expert_KT, trace.num_experts),
        expert_sets.counts(expert_KT, trace.num_experts)[0],
      )
      if before is not None:
        overlap.add(*expert_sets.overlap(before[0], layer_set[0]))
        chance.append(_chance(before[1], layer_set[1], trace))
        names[n - 1] = f'layers {trace.layers[n - 1]} and {layer}'
      before = layer_set
    by_layer = rows.by_layer(trace, {'overlap': overlap.means()}, names)
    for row, value in zip(
      by_layer.values(), [*chance, rows.mean(np.array(chance))], strict=True
    ):
      row['chance'] = rows.number(value)
    result |= by_layer
  return result


def _chance(a_E: np.ndarray, b_E: np.ndarray, trace: Trace) -> float:
  """The overlap of independent choices with these counts."""
  tokens = len(trace.token_T)
  size = max(a_E.sum(), b_E.sum())
  return float(rows.ratio((a_E.astype(float) * b_E).sum(), tokens * size))
