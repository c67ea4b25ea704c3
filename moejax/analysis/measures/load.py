"""A measure of how evenly the experts of a layer are used, over all texts."""

import numpy as np

from moejax.analysis.statistics import RoutingStatistics


def load(statistics: RoutingStatistics) -> dict[str, dict[str, float]]:
  """By layer, loads over the mean load, and the number of unused experts.

  Columns: `max` and `min` are the loads of the most and the least used expert,
  where 1 is perfect balance; `unused` is the number of experts without an
  assignment. An expert that its layer does not have is none of them.
  """
  total_NE = np.sum(list(statistics.count_NE.values()), axis=0)
  if statistics.has_NE is not None:
    total_NE = np.where(statistics.has_NE, total_NE, np.nan)
  mean_N1 = np.maximum(np.nanmean(total_NE, axis=1, keepdims=True), 1e-9)
  ratio_NE = total_NE / mean_N1
  return {
    layer: {
      'max': float(np.nanmax(ratio_NE[n])),
      'min': float(np.nanmin(ratio_NE[n])),
      'unused': int((total_NE[n] == 0).sum()),
    }
    for n, layer in enumerate(statistics.layers)
  }
