"""Gate entropy: how evenly a token weighs the experts that it has chosen."""

import numpy as np

from moejax.analysis import bootstrap, rows
from moejax.analysis.measure import Rows
from moejax.analysis.traces import Traces


def gate_entropy(traces: Traces) -> Rows:
  """By checkpoint and layer, the entropy of the weights of a token's experts.

    nats        -sum w ln w over the token's K experts, weights scaled to sum 1
    normalised  nats / ln K: 1 if all experts weigh the same

  Both are means over tokens. Negative weights count as 0; a token whose weights
  are all 0 does not count, and one with a single expert does not in
  `normalised`, which is None where K = 1. Source: the EWA of LibMoE (arXiv
  2411.00918), whose published JSON files are in nats, and the router entropy of
  arXiv 2505.10860.
  """
  result: Rows = {}
  for i in range(len(traces.each)):
    trace = traces.each[i]
    nats, normalised = (bootstrap.LayerSums(traces.documents) for _ in range(2))
    for n in range(len(trace.layers)):
      has_TK = trace.expert_TNK[:, n] >= 0
      weight_TK = np.maximum(trace.weight_TNK[:, n], 0) * has_TK
      total_T = weight_TK.sum(axis=1)
      keep_T = total_T > 0
      p_TK = weight_TK / np.where(keep_T, total_T, 1)[:, None]
      nats_T = -(p_TK * np.log(np.where(p_TK > 0, p_TK, 1))).sum(axis=1)
      num_T = has_TK.sum(axis=1)
      nats.add(nats_T, keep_T)
      normalised.add(
        nats_T / np.log(np.maximum(num_T, 2)), keep_T & (num_T > 1)
      )
    means = {'nats': nats.means(), 'normalised': normalised.means()}
    result |= rows.by_layer(trace, means)
  return result
