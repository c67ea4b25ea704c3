"""Router margin: how clearly a token's first expert leads its second."""

import numpy as np

from moejax.analysis import bootstrap, rows
from moejax.analysis.measure import Rows
from moejax.analysis.traces import Traces


def margin(traces: Traces) -> Rows:
  """By checkpoint and layer, the mean of the first weight minus the second.

    weight       of the weights of the experts' outputs, over tokens with at
                 least two experts; None where every token has one
    probability  of the softmax of the router's logits, over all tokens with an
                 expert; only if the traces have logits

  Source: LibMoE, arXiv 2411.00918, which takes the routing weights.
  """
  result: Rows = {}
  for i in range(len(traces.each)):
    trace = traces.each[i]
    sums = {'weight': bootstrap.LayerSums(traces.documents)}
    if trace.logits_TNE is not None:
      sums['probability'] = bootstrap.LayerSums(traces.documents)
    for n in range(len(trace.layers)):
      has_T = np.zeros(len(trace.token_T), bool)
      margin_T = np.zeros(len(trace.token_T))
      if trace.k > 1:
        has_T = trace.expert_TNK[:, n, 1] >= 0
        margin_T = trace.weight_TNK[:, n, 0] - trace.weight_TNK[:, n, 1]
      sums['weight'].add(margin_T, has_T)
      if trace.logits_TNE is not None:
        margin_T, finite_T = _of_logits(trace.logits_TNE[:, n])
        sums['probability'].add(
          margin_T, finite_T & (trace.expert_TNK[:, n, 0] >= 0)
        )
    means = {name: x.means() for name, x in sums.items()}
    result |= rows.by_layer(trace, means)
  return result


def _of_logits(logits_TE: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The margin of the softmax by token, and where it is finite."""
  if logits_TE.shape[1] < 2:
    return np.zeros(len(logits_TE)), np.zeros(len(logits_TE), bool)
  top_T2 = np.partition(logits_TE, -2, axis=1)[:, -2:]
  with np.errstate(invalid='ignore'):
    total_T = np.exp(logits_TE - top_T2[:, 1:]).sum(axis=1)
    margin_T = (1 - np.exp(top_T2[:, 0] - top_T2[:, 1])) / total_T
  finite_T = np.isfinite(margin_T)
  return np.where(finite_T, margin_T, 0), finite_T
