"""GROUPINGS: which dominant expert each other expert of a layer joins.

An entry is a function (statistics, weights, layer, dominant_E, capacity=0) ->
group_E, int: for each expert the index of its dominant expert, for a dominant
expert its own.

  statistics   `ExpertStatistics`
  weights      arrays of the layer by name, see `importance`
  layer        n, the row of the statistics
  dominant_E   bool, the experts that stay
  capacity     largest number of experts in a group, with the dominant one; 0
               for no limit

Entries differ in how similar two experts are. To add one, write a `Similarity`,
give it a line in GROUPINGS and a row in docs/compress.md.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from moejax.compress import alignment
from moejax.compress.importance import Weights
from moejax.compress.statistics import ExpertStatistics
from moejax.core import errors

# (statistics, weights, layer) -> similarity_EE, in [0, 1], symmetric.
Similarity = Callable[[ExpertStatistics, Weights, int], np.ndarray]


def router_logits(
  statistics: ExpertStatistics, weights: Weights, layer: int
) -> np.ndarray:
  """(cos + 1) / 2 of two experts' router logits over all tokens.

  M-SMoE's similarity (arXiv 2310.01334, section 3.1).
  """
  del weights
  return similarity_of_gram(statistics.logit_gram_NEE[layer])


def expert_weights(
  statistics: ExpertStatistics, weights: Weights, layer: int
) -> np.ndarray:
  """(cos + 1) / 2 of two experts' weights, as one long vector each.

  The similarity `weight` of the code of M-SMoE (arXiv 2310.01334). Hidden units
  are compared in the order that they have; align experts before.
  """
  del statistics, layer
  gram_EE = 0.0
  for array in alignment.expert_arrays(weights).values():
    flat_EP = np.asarray(array, np.promote_types(array.dtype, np.float32))
    flat_EP = flat_EP.reshape(len(array), -1)
    gram_EE = gram_EE + (flat_EP @ flat_EP.T).astype(np.float64)
  return similarity_of_gram(np.asarray(gram_EE))


def outputs(
  statistics: ExpertStatistics, weights: Weights, layer: int
) -> np.ndarray:
  """(cos + 1) / 2 of two experts' outputs for the same tokens.

  The code of M-SMoE (arXiv 2310.01334) compares the mean outputs of two
  experts, each over its own tokens; here both compute the same tokens.

  Raises:
    InputError: the statistics have no outputs.
  """
  del weights
  if statistics.output_gram_NEE is None:
    raise errors.InputError(
      "grouping outputs needs the experts' outputs, which these statistics do "
      'not have; collect them with outputs, or group by router_logits'
    )
  return similarity_of_gram(statistics.output_gram_NEE[layer])


def similarity_of_gram(gram_EE: np.ndarray) -> np.ndarray:
  """(cos + 1) / 2 from dot products; 1/2 with an expert of only zeros."""
  norm_E = np.sqrt(np.diag(gram_EE))
  norm_EE = np.outer(norm_E, norm_E)
  cos_EE = np.divide(
    gram_EE, norm_EE, out=np.zeros(gram_EE.shape), where=norm_EE > 0
  )
  return (np.clip(cos_EE, -1, 1) + 1) / 2


@dataclasses.dataclass(frozen=True)
class Grouping:
  """Each expert joins the most similar dominant expert that has room.

  Experts choose in the order of falling activations, as in M-SMoE's code; the
  order matters with a capacity alone. Of equally similar dominant experts the
  lower one is joined.
  """

  similarity: Similarity

  def __call__(
    self,
    statistics: ExpertStatistics,
    weights: Weights,
    layer: int,
    dominant_E: np.ndarray,
    capacity: int = 0,
  ) -> np.ndarray:
    """group_E; see the module's docstring.

    Raises:
      InputError: the groups have no room for all experts.
    """
    dominant_E = np.asarray(dominant_E, bool)
    num, dominant_G = len(dominant_E), np.flatnonzero(dominant_E)
    capacity = capacity or num
    if not len(dominant_G):
      raise ValueError('a layer without a dominant expert has no groups')
    if capacity * len(dominant_G) < num:
      raise errors.InputError(
        f'capacity={capacity}: {len(dominant_G)} groups of {capacity} have no '
        f'room for {num} experts; set {-(-num // len(dominant_G))} or more, or '
        'keep more experts'
      )
    similarity_EE = self.similarity(statistics, weights, layer)
    group_E = np.arange(num)
    size_E = np.where(dominant_E, 1, capacity)
    for expert in np.argsort(-statistics.count_NE[layer], kind='stable'):
      if not dominant_E[expert]:
        room_E = size_E < capacity
        choice_E = np.where(room_E, similarity_EE[expert], -np.inf)
        group_E[expert] = np.argmax(choice_E)
        size_E[group_E[expert]] += 1
    return group_E


GROUPINGS: dict[str, Grouping] = {
  'router_logits': Grouping(router_logits),
  'weights': Grouping(expert_weights),
  'outputs': Grouping(outputs),
}
