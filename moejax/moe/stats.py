"""Routing statistics, as `core.values` that merge over shards and batches.

They are always on. The number of scalars in the metrics grows neither with
layers nor with experts.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import values
from moejax.moe import contract
from moejax.moe.balance import counts
from moejax.moe.routers import scores


def observe(
  inputs: contract.RouterInput,
  routing: contract.Routing,
  sent_A: jax.Array,
  previous_TE: jax.Array | None = None,
) -> dict[str, values.Value]:
  """Routing statistics of one layer over the tokens of this shard.

  Args:
    inputs: the router's input.
    routing: the router's assignments.
    sent_A: bool, whether the assignment was computed.
    previous_TE: bool, `chosen` of the previous layer. Tokens that chose no
      expert in that layer (before the first layer: all) are not counted in the
      overlap.
  """
  prob_TE = jax.lax.stop_gradient(routing.prob_TE)
  logits_TE = jax.lax.stop_gradient(unmasked(inputs))
  num_experts = prob_TE.shape[1]
  valid_T = inputs.valid_T
  asked_A = routing.expert_A < num_experts
  entropy_T = -jnp.sum(jax.scipy.special.xlogy(prob_TE, prob_TE), axis=-1)
  dropped_A = asked_A & ~sent_A
  return {
    'bias': values.Max.of(_bias_range(inputs)),
    'count_E': values.Sum(counts.count(routing)),
    'dropped': values.Mean.of(dropped_A, asked_A),
    'entropy': values.Mean.of(entropy_T, valid_T),
    'logit': values.Max.of(jnp.where(valid_T[:, None], jnp.abs(logits_TE), 0)),
    'overlap': _overlap(routing, previous_TE),
  }


def chosen(routing: contract.Routing) -> jax.Array:
  """Which experts each token goes to, bool [T, E].

  Example, T=2, E=3:
    token_A   [0, 1, 0, 1]
    expert_A  [2, 1, 0, 3]    3 is nowhere
    chosen    [[1, 0, 1], [0, 1, 0]]
  """
  num_tokens, num_experts = routing.prob_TE.shape
  if routing.per_token is not None:
    expert_KT = routing.expert_A.reshape(-1, num_tokens)
    return jnp.any(expert_KT[..., None] == jnp.arange(num_experts), axis=0)
  none_TE = jnp.zeros((num_tokens, num_experts), bool)
  # An expert id of E is out of bounds, so it is dropped.
  return none_TE.at[routing.token_A, routing.expert_A].set(True, mode='drop')


def unmasked(inputs: contract.RouterInput) -> jax.Array:
  """The logits, with 0 for choices that the layer does not have."""
  if inputs.in_use_E is None:
    return inputs.logits_TE
  is_used_TE = inputs.logits_TE > scores.LEAST_LOGIT
  return jnp.where(is_used_TE, inputs.logits_TE, 0.0)


def _bias_range(inputs: contract.RouterInput) -> jax.Array:
  """Largest minus least selection bias of an expert; 0 without biases."""
  if inputs.selection_bias_E is None:
    return jnp.zeros((), jnp.float32)
  bias_E = inputs.selection_bias_E
  if inputs.in_use_E is not None:
    some = jnp.max(bias_E)
    bias_E = jnp.where(inputs.in_use_E, bias_E, some)
  return jnp.max(bias_E) - jnp.min(bias_E)


def _overlap(
  routing: contract.Routing, previous_TE: jax.Array | None
) -> values.Mean:
  """Share of the tokens' choices that they also made in the layer before."""
  if previous_TE is None:
    return values.Mean.of(jnp.zeros(()), 0.0)
  previous_TE = previous_TE > 0
  chosen_TE = chosen(routing)
  counted_TE = chosen_TE & jnp.any(previous_TE, axis=-1, keepdims=True)
  return values.Mean.of(previous_TE, counted_TE)


# By name of a scalar: the statistic, which is one number per layer, and its
# reduction over layers. The worst layer is the one with the largest value; for
# the entropy, with the smallest.
SUMMARY: dict[str, tuple[str, Callable[[np.ndarray], float]]] = {
  'dropped': ('dropped', np.mean),
  'dropped_worst_layer': ('dropped', np.max),
  'entropy': ('entropy', np.mean),
  'entropy_median_layer': ('entropy', np.median),
  'entropy_worst_layer': ('entropy', np.min),
  'logit_max': ('logit', np.max),
  'logit_max_median_layer': ('logit', np.median),
  'bias_range': ('bias', np.max),
  'bias_range_median_layer': ('bias', np.median),
  'overlap': ('overlap', np.mean),
  'overlap_worst_layer': ('overlap', np.max),
}


def summarise(statistics: dict[str, np.ndarray]) -> dict[str, float]:
  """Scalars over all layers, from the statistics' results, layers in front.

  A scalar is the value of the median layer, of the worst layer, or the mean
  over layers, so the number of scalars grows neither with layers nor with
  experts.

  The load of an expert is the number of its assignments over the mean of its
  layer: 1 is balanced. A dead expert has no assignment. The overlap with the
  previous layer leaves out the first layer.
  A count of NaN is of an expert that its layer does not have (`moe.uneven`).
  """
  count_NE = np.asarray(statistics['count_E'], np.float64)
  load_NE = load(count_NE)
  dead_N = (count_NE == 0).sum(axis=1) / (~np.isnan(count_NE)).sum(axis=1)
  is_even = not np.isnan(count_NE).any()
  percentile = np.percentile if is_even else np.nanpercentile
  p95_N = percentile(load_NE, 95, axis=1)
  scalars = {
    'load_max': np.nanmax(load_NE),
    'load_max_median_layer': np.median(np.nanmax(load_NE, axis=1)),
    'load_min': np.nanmin(load_NE),
    'load_min_median_layer': np.median(np.nanmin(load_NE, axis=1)),
    'load_p95': percentile(load_NE, 95),
    'load_p95_median_layer': np.median(p95_N),
    'dead_experts': dead_N.mean(),
    'dead_experts_worst_layer': dead_N.max(),
  }
  if 'overlap' in statistics and len(count_NE) > 1:
    statistics = statistics | {'overlap': statistics['overlap'][1:]}
  for name, (statistic, over_layers) in SUMMARY.items():
    if statistic in statistics:
      scalars[name] = over_layers(statistics[statistic])
  return {name: float(value) for name, value in scalars.items()}


def load(count_NE: np.ndarray) -> np.ndarray:
  """Assignments of each expert over the mean of its layer, [layers, E].

  An expert whose count is NaN is not one of its layer.
  """
  mean_N1 = np.nanmean(count_NE, axis=-1, keepdims=True)
  return count_NE / np.where(mean_N1 == 0, 1, mean_N1)
