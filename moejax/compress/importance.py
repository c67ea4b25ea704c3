"""IMPORTANCE: how much each expert of a layer matters, by the score's name.

An entry is a function (statistics, weights, layer) -> score_E: float64, at
least 0, larger for an expert that matters more.

  statistics   `ExpertStatistics` of one domain
  weights      arrays of this layer by name, as the layer names them: those of
               the experts, and of the router (`w_DE`)
  layer        n, the row of the statistics

Scores of one layer and entry compare with each other; their scale means
nothing. To add one, write its function with its formula and source, give it a
line in IMPORTANCE and a row in docs/compress.md.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from moejax.compress.statistics import ExpertStatistics
from moejax.core import errors

Weights = Mapping[str, np.ndarray]
Importance = Callable[[ExpertStatistics, Weights, int], np.ndarray]


def easy_ep(
  statistics: ExpertStatistics, weights: Weights, layer: int
) -> np.ndarray:
  """Sum of g ||E(h)|| s_t over the expert's tokens (arXiv 2504.06792, 3.2)."""
  del weights
  return _float(statistics.easy_ep_NE[layer])


def easy_ep_no_norm(
  statistics: ExpertStatistics, weights: Weights, layer: int
) -> np.ndarray:
  """EASY-EP without output norms: sum of g s_t (arXiv 2504.06792, ablation)."""
  del weights
  return _float(statistics.gate_token_NE[layer])


def easy_ep_no_token(
  statistics: ExpertStatistics, weights: Weights, layer: int
) -> np.ndarray:
  """EASY-EP without s_t: sum of g ||E(h)|| (arXiv 2504.06792, ablation)."""
  del weights
  return _float(statistics.gate_norm_NE[layer])


def gate_score(
  statistics: ExpertStatistics, weights: Weights, layer: int
) -> np.ndarray:
  """Sum of g: EASY-EP without both factors (arXiv 2504.06792, baseline)."""
  del weights
  return _float(statistics.gate_NE[layer])


def frequency(
  statistics: ExpertStatistics, weights: Weights, layer: int
) -> np.ndarray:
  """Share of the layer's activations: M-SMoE's alpha (arXiv 2310.01334)."""
  del weights
  return statistics.frequency[layer]


def output_norm(
  statistics: ExpertStatistics, weights: Weights, layer: int
) -> np.ndarray:
  """Sum of ||E(h)|| over the expert's tokens.

  The expert activation norm of the study by Jaiswal et al. (arXiv 2504.05586).
  """
  del weights
  return _float(statistics.norm_NE[layer])


def router_norm(
  statistics: ExpertStatistics, weights: Weights, layer: int
) -> np.ndarray:
  """L2 norm of the expert's row of the router (arXiv 2504.05586).

  Raises:
    InputError: the router has no row for each expert.
  """
  del statistics, layer
  if 'w_DE' not in weights:
    raise errors.InputError(
      'importance router_norm needs a router with a row for each expert '
      '(scorer=linear or laplace); take another importance'
    )
  return np.linalg.norm(np.asarray(weights['w_DE'], np.float64), axis=0)


def random(
  statistics: ExpertStatistics, weights: Weights, layer: int, seed: int = 0
) -> np.ndarray:
  """Uniform in [0, 1), drawn anew for each layer: the weakest baseline.

  The same seed, layer and number of experts give the same scores.
  """
  del weights
  return np.random.default_rng([seed, layer]).random(statistics.num_experts)


def _float(score_E: np.ndarray) -> np.ndarray:
  return np.asarray(score_E, np.float64)


# Entries whose scores are drawn; they take a seed as well.
DRAWN = (random,)

IMPORTANCE: dict[str, Importance] = {
  'easy_ep': easy_ep,
  'easy_ep_no_norm': easy_ep_no_norm,
  'easy_ep_no_token': easy_ep_no_token,
  'gate_score': gate_score,
  'frequency': frequency,
  'output_norm': output_norm,
  'router_norm': router_norm,
  'random': random,
}


def scores(
  name: str,
  statistics: ExpertStatistics,
  weights: Mapping[int, Weights] | Sequence[Weights],
  seed: int = 0,
) -> np.ndarray:
  """score_NE: an entry of IMPORTANCE for all layers.

  Args:
    name: of the entry.
    statistics: of one domain.
    weights: of each layer, by n.
    seed: of entries that draw.
  """
  layers, entry = range(statistics.num_layers), IMPORTANCE[name]
  if entry in DRAWN:
    entry = functools.partial(entry, seed=seed)
  return np.stack([entry(statistics, weights[n], n) for n in layers])
