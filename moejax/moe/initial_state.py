"""The states of balance parts and of the router before the first step."""

import jax.numpy as jnp
from flax import nnx

from moejax.moe import balance
from moejax.moe.config import MoEConfig


def of(config: MoEConfig) -> nnx.Dict:
  """States of balance parts and the router's step count, as parameters."""
  states = balance.initial_states(config.balance, config.num_choices)
  kept = {name: state.arrays for name, state in states.items()}
  if config.router.counts_steps:
    kept['router'] = {'steps': jnp.zeros((), jnp.float32)}
  as_param = lambda x: nnx.Param(x, axes=('unsharded',) * x.ndim, decays=False)
  return nnx.Dict({
    owner: nnx.Dict({name: as_param(x) for name, x in arrays.items()})
    for owner, arrays in kept.items()
  })
