"""What an optimiser step leaves of the layers' weights.

The optimiser gives a new value to everything. Here memories become what they
remember of the batch, a scorer's weights what the scorer sets them to, and what
a router has frozen is as it was, to the bit: without a gradient alone, momentum
and weight decay would still move it.
"""

from typing import Any

import jax
import jax.numpy as jnp

from moejax.moe import balance
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
  found = dict(new)
  if 'router' in new:
    found['router'] = config.scorer.after_step(new['router'])
  if 'heads' in new:
    heads = config.router.heads(config.num_choices)
    found['heads'] = {
      name: heads[name][0].after_step(w) for name, w in new['heads'].items()
    }
  if not old.get('memory'):
    return found
  found['memory'] = _memory(config, old['memory'], sums)
  for name, first in config.router.frozen_heads.items():
    steps_N = old['memory']['router']['steps']
    found['heads'][name] = _until(
      first, steps_N, found['heads'][name], old['heads'][name]
    )
  return found


def _memory(
  config: MoEConfig, memory: Weights, sums: dict[str, Any]
) -> Weights:
  memory = dict(memory)
  router = memory.pop('router', None)
  found = balance.update(config.balance, memory, sums)
  if router is not None:
    found['router'] = {'steps': router['steps'] + 1}
  return found


def _until(first: int, steps_N: jax.Array, new: Any, old: Any) -> Any:
  """`new` before the step `first`, `old` from it on; layers in front."""

  def choose(new: jax.Array, old: jax.Array) -> jax.Array:
    moves_N = steps_N < first
    return jnp.where(moves_N.reshape(-1, *[1] * (new.ndim - 1)), new, old)

  return jax.tree.map(choose, new, old)
