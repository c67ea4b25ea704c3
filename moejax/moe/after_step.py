"""What an optimiser step leaves of the layers' weights.

The optimiser gives a new value to everything. Here balance parts replace their
states from the sums of the batch, scorers set those of their weights that they
set, and frozen weights stay as they were to the bit: momentum and weight decay
would move them even without a gradient.
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
    old: the weights before, with the layers in front.
    new: as the optimiser wants them.
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
  for name, first in config.router.frozen_scorers.items():
    steps_N = old['router_state']['router']['steps']
    kept['extra_scorers'][name] = _until(
      first, steps_N, kept['extra_scorers'][name], old['extra_scorers'][name]
    )
  return kept


def _router_state(
  config: MoEConfig, arrays: Weights, sums: dict[str, Any]
) -> Weights:
  """The states after a step, as arrays by part and name."""
  arrays = dict(arrays)
  router = arrays.pop('router', None)
  states = {
    name: contract.RouterState.of_arrays(own) for name, own in arrays.items()
  }
  states = balance.update(config.balance, states, sums)
  new = {name: state.arrays for name, state in states.items()}
  if router is not None:
    new['router'] = {'steps': router['steps'] + 1}
  return new


def _until(first: int, steps_N: jax.Array, new: Any, old: Any) -> Any:
  """`new` before the step `first`, `old` from it on; layers in front."""

  def choose(new: jax.Array, old: jax.Array) -> jax.Array:
    moves_N = steps_N < first
    return jnp.where(moves_N.reshape(-1, *[1] * (new.ndim - 1)), new, old)

  return jax.tree.map(choose, new, old)
