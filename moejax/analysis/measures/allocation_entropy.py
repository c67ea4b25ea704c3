"""Expert allocation entropy: how many experts a kind of text uses."""

import numpy as np

from moejax.analysis import expert_sets, rows
from moejax.analysis.measure import Rows
from moejax.analysis.measures.utilisation import entropy
from moejax.analysis.traces import Traces


def allocation_entropy(traces: Traces) -> Rows:
  """By layer of the last checkpoint and domain, -sum p log p / log E.

  p is the share of each expert in the domain's assignments, and E the number of
  experts that the layer has: 1 if the domain uses all alike, 0 if it uses one.
  A column for each domain; None for a domain without an assignment. Source: the
  EAE of LibMoE, arXiv 2411.00918, whose code takes the mean of the last two
  layers, as the row `last 2 layers` does.
  """
  trace = traces.last
  value_ND = []
  for n in range(len(trace.layers)):
    count_DE = expert_sets.counts(
      expert_sets.of_layer(trace, n),
      trace.num_experts,
      trace.domain_T,
      len(trace.domains),
    )
    value_ND.append([entropy(count_E) for count_E in count_DE[:, trace.has(n)]])

  def row(value_D):
    return dict(zip(trace.domains, map(rows.number, value_D), strict=True))

  result = {
    f'layer {layer}': {'layer': int(layer), **row(value_D)}
    for layer, value_D in zip(trace.layers, value_ND, strict=True)
  }
  for name, values in (
    ('all layers', value_ND),
    ('last 2 layers', value_ND[-2:]),
  ):
    result[name] = {
      'layer': None,
      **row(
        rows.mean(np.array(value_N)) for value_N in zip(*values, strict=True)
      ),
    }
  return result
