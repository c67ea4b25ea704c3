"""Similarity of experts by their weights."""

import numpy as np

from moejax.analysis import rows
from moejax.analysis.measure import Rows
from moejax.analysis.traces import Traces

CHUNK = 1 << 20  # weights of an expert that are multiplied at once


def weight_similarity(traces: Traces) -> Rows:
  """By layer of the last checkpoint, cosines of the experts' weights.

  An expert is the vector of all its weights. `matrix` has the cosines, `mean`
  is the mean over i != j of ReLU(cos), as in `output_similarity`, and `cosine`
  that of the cosine itself; None with one expert, and in `matrix` for experts
  that the layer does not have. The cosine does not see that
  two experts compute the same with their neurons in another order: fresh
  experts have 0, copies of one (upcycling) have 1. Source: arXiv 2411.00918
  measures outputs; of weights, arXiv 2310.01334 (MC-SMoE), section 3.
  """
  trace = traces.last
  if traces.weights is None:
    raise ValueError('this measure needs the weights of the experts')
  result: Rows = {}
  for n, layer in enumerate(trace.layers):
    has_E = trace.has(n)[: len(traces.weights[n])]
    cosine_EE = cosines(traces.weights[n])
    cosine_EE = np.where(has_E & has_E[:, None], cosine_EE, np.nan)
    others = rows.off_diagonal(cosine_EE)
    result[f'layer {layer}'] = {
      'layer': int(layer),
      'mean': rows.number(rows.mean(np.maximum(others, 0))),
      'cosine': rows.number(rows.mean(others)),
      'matrix': rows.numbers(cosine_EE),
    }
  return result


def cosines(weight_EP: np.ndarray) -> np.ndarray:
  """Cosines of the rows, [E, E]; NaN for a row of zeros."""
  num_experts, size = weight_EP.shape
  dot_EE = np.zeros((num_experts, num_experts))
  for start in range(0, size, CHUNK):
    part_EP = weight_EP[:, start : start + CHUNK].astype(np.float32)
    dot_EE += part_EP @ part_EP.T
  norm_E = np.sqrt(np.diagonal(dot_EE))
  return rows.ratio(dot_EE, norm_E[:, None] * norm_E)
