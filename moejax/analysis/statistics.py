"""RoutingStatistics: how often each expert was chosen, by text."""

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class RoutingStatistics:
  """How often each expert was chosen, summed over whole validation sets.

  Attributes:
    count_NE: by domain, the assignments of each of E experts in each of the N
      layers that have experts, in their order; padding is not counted.
    first_layer: number of the first of these layers in the model.
    has_NE: which choices each layer has, where layers have different ones
      (`moe.uneven`); None if all layers have all.
  """

  count_NE: Mapping[str, np.ndarray]
  first_layer: int = 0
  has_NE: np.ndarray | None = None

  @property
  def layers(self) -> list[str]:
    """The names of the N layers, as rows of a table."""
    first = next(iter(self.count_NE.values()))
    return [f'layer {self.first_layer + n}' for n in range(len(first))]
