"""A measure of how far experts specialise: the experts a text uses most."""

import numpy as np

from moejax.analysis.statistics import RoutingStatistics

NUM = 2  # experts that are listed for each layer and domain


def top_experts(
  statistics: RoutingStatistics,
) -> dict[str, dict[str, list[list[float]]]]:
  """By layer and domain, the NUM experts most used, [expert, share].

  The share is of the domain's assignments in that layer. Experts with the same
  share are in the order of their numbers.
  """
  has_NE = statistics.has_NE
  tops = {
    name: _top(count, np.ones_like(count) if has_NE is None else has_NE)
    for name, count in statistics.count_NE.items()
  }
  return {
    layer: {name: top[n] for name, top in tops.items()}
    for n, layer in enumerate(statistics.layers)
  }


def _top(count_NE: np.ndarray, has_NE: np.ndarray) -> list[list[list[float]]]:
  """By layer, [expert, share] of the NUM experts most used that it has."""
  share_NE = count_NE / np.maximum(count_NE.sum(axis=1, keepdims=True), 1)
  order_NE = np.argsort(-share_NE, axis=1, kind='stable')[:, :NUM]
  return [
    [[int(e), float(share_NE[layer, e])] for e in order if has_NE[layer, e]]
    for layer, order in enumerate(order_NE)
  ]
