"""The weights of MoE layers after an optimiser step.

The optimiser returns a new value for every weight, and `apply` corrects three
kinds of them. Balance parts compute their states from the sums of the batch.
Scorers constrain their weights, such as norms (`Scorer.after_step`). Frozen
weights are set back to their old values, to the bit: momentum and weight decay
move them even without a gradient.
"""

from typing import Any

import jax
import jax.numpy as jnp

from moejax.moe import balance, contract
from moejax.moe.config import MoEConfig

Weights = dict[str, Any]


def apply(
  config: MoEConfig, old: Weights, new: Weights, sums: dict[str, Any]
) -> Weights:
  """The layers' weights after a step.

  Args:
    config: of the layers.
    old: the weights before the step, with the layers in front.
    new: the weights that the optimiser returned.
    sums: by balance part, its sums over the global batch, layers in front.
  """
  kept = dict(new)
  if 'router' in new:
    kept['router'] = config.scorer.after_step(new['router'])
  if 'extra_scorers' in new:
    scorers = config.router.extra_scorers(config.num_choices)
    kept['extra_scorers'] = {
      name: scorers[name][0].after_step(w)
      for name, w in new['extra_scorers'].items()
    }
  if not old.get('router_state'):
    return kept
  kept['router_state'] = _router_state(config, old['router_state'], sums)
  if 'extra_scorers' not in new:  # they are not trained
    return kept
  for name, frozen_from in config.router.frozen_scorers.items():
    steps_N = old['router_state']['router']['steps']
    kept['extra_scorers'][name] = _until(
      frozen_from,
      steps_N,
      kept['extra_scorers'][name],
      old['extra_scorers'][name],
    )
  return kept


def _router_state(
  config: MoEConfig, arrays: Weights, sums: dict[str, Any]
) -> Weights:
  """The router states after a step, as arrays by balance part and name."""
  arrays = dict(arrays)
  router = arrays.pop('router', None)
  states = {
    name: contract.RouterState.of_arrays(own) for name, own in arrays.items()
  }
  states = balance.update(config.balance, states, sums, config.used_choices)
  new = {name: state.arrays for name, state in states.items()}
  if router is not None:
    new['router'] = {'steps': router['steps'] + 1}
  return new


def _until(frozen_from: int, steps_N: jax.Array, new: Any, old: Any) -> Any:
  """`new` before step `frozen_from`, `old` from it on; layers in front."""

  def choose(new: jax.Array, old: jax.Array) -> jax.Array:
    moves_N = steps_N < frozen_from
    return jnp.where(moves_N.reshape(-1, *[1] * (new.ndim - 1)), new, old)

  return jax.tree.map(choose, new, old)
