"""What the routers do, as values that merge; always on, bounded in number."""

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import values
from moejax.moe import contract


def observe(
  given: contract.RouterInput, routing: contract.Routing, sent_A: jax.Array
) -> dict[str, values.Value]:
  """Routing statistics of one layer over the tokens of this shard.

  Args:
    given: what the router saw.
    routing: what it chose.
    sent_A: which assignments were computed.
  """
  prob_TE = jax.lax.stop_gradient(routing.prob_TE)
  logits_TE = jax.lax.stop_gradient(given.logits_TE)
  num_experts = prob_TE.shape[1]
  valid_T = given.valid_T
  asked_A = routing.expert_A < num_experts
  entropy_T = -jnp.sum(jax.scipy.special.xlogy(prob_TE, prob_TE), axis=-1)
  hit_AE = routing.expert_A[:, None] == jnp.arange(num_experts)
  dropped_A = asked_A & ~sent_A
  return {
    'count_E': values.Sum(jnp.sum(hit_AE, axis=0, dtype=jnp.float32)),
    'dropped': values.Mean.of(dropped_A, asked_A),
    'entropy': values.Mean.of(entropy_T, valid_T),
    'logit': values.Max.of(jnp.where(valid_T[:, None], jnp.abs(logits_TE), 0)),
  }


def summarise(found: dict[str, np.ndarray]) -> dict[str, float]:
  """Scalars over all layers from finished statistics with layers in front.

  Load is an expert's assignments over the mean of its layer: 1 is balanced.
  """
  count_NE = np.asarray(found['count_E'], np.float64)
  load_NE = load(count_NE)
  return {
    'load_max': float(load_NE.max()),
    'load_max_median_layer': float(np.median(load_NE.max(axis=1))),
    'load_min': float(load_NE.min()),
    'load_p95': float(np.percentile(load_NE, 95)),
    'dead_experts': float((count_NE == 0).mean()),
    'dropped': float(np.mean(found['dropped'])),
    'entropy': float(np.mean(found['entropy'])),
    'logit_max': float(np.max(found['logit'])),
  }


def load(count_NE: np.ndarray) -> np.ndarray:
  """Assignments of each expert over the mean of its layer, [layers, E]."""
  mean_N1 = count_NE.mean(axis=-1, keepdims=True)
  return count_NE / np.where(mean_N1 == 0, 1, mean_N1)
