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
  tops = {name: _top(count) for name, count in statistics.count_NE.items()}
  return {
    layer: {name: top[n] for name, top in tops.items()}
    for n, layer in enumerate(statistics.layers)
  }


def _top(count_NE: np.ndarray) -> list[list[list[float]]]:
  """By layer, [expert, share] of the NUM experts most used."""
  share_NE = count_NE / np.maximum(count_NE.sum(axis=1, keepdims=True), 1)
  order_NE = np.argsort(-share_NE, axis=1, kind='stable')[:, :NUM]
  return [
    [[int(e), float(share_NE[layer, e])] for e in order]
    for layer, order in enumerate(order_NE)
  ]
