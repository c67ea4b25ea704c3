"""BALANCE: every balance loss and bias rule by its name in a config."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import errors, table
from moejax.moe import contract, uneven
from moejax.moe.balance import (
  adamw_bias,
  adaptive_l1,
  base,
  bias,
  coupling,
  first_choice,
  gshard,
  load,
  logits,
  quantile,
  selector_entropy,
  smebu,
  stable_moe,
  switch,
  ternary_choice,
  threshold_ema,
  two_level,
  variation,
  zero_computation,
)

BALANCE = {
  'adamw_bias': adamw_bias.AdamWBias,
  'adaptive_l1': adaptive_l1.AdaptiveL1,
  'communication': load.Communication,
  'coupling': coupling.Coupling,
  'device_level': load.DeviceLevel,
  'dselect_entropy': selector_entropy.SelectorEntropy,
  'entropy': logits.Entropy,
  'expert_level': load.ExpertLevel,
  'first_choice': first_choice.FirstChoice,
  'groups': zero_computation.Groups,
  'gshard_aux': gshard.GShardAux,
  'importance': variation.Importance,
  'load': variation.Load,
  'longcat_bias': bias.ShareBias,
  'loss_free': bias.LossFree,
  'quantile': quantile.Quantile,
  'sequence_level': load.SequenceLevel,
  'smebu': smebu.Smebu,
  'stable_moe': stable_moe.StableMoELoss,
  'switch': switch.SwitchLoss,
  'tc_moe': ternary_choice.TernaryChoice,
  'threshold_ema': threshold_ema.ThresholdEma,
  'token_entropy': logits.TokenEntropy,
  'two_level': two_level.TwoLevelImportance,
  'weighted': zero_computation.Weighted,
  'z_loss': logits.ZLoss,
}

# By name of a balance part, its state; parts without a state are left out.
States = dict[str, contract.RouterState]


def total(
  losses: tuple[base.Balance, ...],
  sums: dict[str, Any],
  in_use_NE: np.ndarray | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """All balance losses of a model, summed over its MoE layers.

  The losses of layers are added, as in DeepSeek's released code and in LibMoE,
  so a coefficient is that of a sum over layers. To use the coefficient of a
  project that takes the mean over layers, divide it by their number. A part
  that `joins_layers` has one loss for the whole model instead.

  Args:
    losses: the configured parts; parts without a loss are skipped.
    sums: by name of the part, its global sums with layers in front.
    in_use_NE: the choices of each layer if their numbers differ, see
      `moe.uneven`.

  Returns:
    The total, and each loss by name: the mean over layers, or the one loss.

  Raises:
    KeyError: a configured loss has no sums, since a layer did not report it.
  """
  loss = jnp.zeros((), jnp.float32)
  values = {}
  for part in losses:
    name = table.name_of(BALANCE, part)
    if name not in sums:
      raise KeyError(f'no layer reported balance loss {name!r}')
    if type(part).loss is base.Balance.loss:
      continue  # a part with a state and no loss
    if part.joins_layers:
      joined = jax.tree.map(lambda x: jnp.sum(x, axis=0), sums[name])
      loss_N = part.loss(joined)[None]
    elif in_use_NE is not None:
      loss_N = jnp.stack([
        part.loss(uneven.of_layer(sums[name], n, used_E))
        for n, used_E in enumerate(in_use_NE)
      ])
    else:
      loss_N = jax.vmap(part.loss)(sums[name])
    loss = loss + jnp.sum(loss_N)
    values[name] = jnp.mean(loss_N)
  return loss, values


def observe(
  parts: tuple[base.Balance, ...],
  inputs: contract.RouterInput,
  routing: contract.Routing,
  states: States,
) -> dict[str, Any]:
  """The sums of each part by its name, over the tokens of this shard.

  Args:
    parts: the configured balance parts.
    inputs: the router's input.
    routing: the router's assignments.
    states: of this layer; each part sees its own as `inputs.own_state`.

  Raises:
    InputError: the router does not report an array that a part needs.
  """
  sums = {}
  for part in parts:
    name = table.name_of(BALANCE, part)
    own = dataclasses.replace(inputs, own_state=states.get(name))
    try:
      sums[name] = part.observe(own, routing)
    except errors.InputError as error:
      raise errors.InputError(
        f'model.moe.balance.{name} {error}, or model.moe.balance.{name}=off'
      ) from None
  return sums


def initial_states(parts: tuple[base.Balance, ...], num_experts: int) -> States:
  """The states of one layer before the first step, by balance part."""
  states = {
    table.name_of(BALANCE, part): part.initial_state(num_experts)
    for part in parts
  }
  return {name: state for name, state in states.items() if state is not None}


def selection_bias(states: States) -> jax.Array | None:
  """The sum of the selection biases, [E]; None where no part keeps one."""
  biases = [
    state.selection_bias_E
    for state in states.values()
    if state.selection_bias_E is not None
  ]
  return functools.reduce(jnp.add, biases) if biases else None


def update(
  parts: tuple[base.Balance, ...],
  states: States,
  sums: dict[str, Any],
  in_use_NE: np.ndarray | None = None,
) -> States:
  """The states after a step.

  Args:
    parts: the configured balance parts.
    states: before the step, with layers in front.
    sums: by name of the part, its global sums with layers in front.
    in_use_NE: as for `total`.
  """
  by_name = {table.name_of(BALANCE, part): part for part in parts}
  update_part = _update if in_use_NE is None else _update_uneven
  return {
    name: update_part(by_name[name], state, sums[name], in_use_NE)
    for name, state in states.items()
  }


def _update(
  part: base.Balance,
  state: contract.RouterState,
  sums: Any,
  in_use_NE: np.ndarray | None,
) -> contract.RouterState:
  del in_use_NE
  return part.update(state, sums)


def _update_uneven(
  part: base.Balance,
  state: contract.RouterState,
  sums: Any,
  in_use_NE: np.ndarray | None,
) -> contract.RouterState:
  """Each layer's update, as if it had the choices in use alone."""
  arrays = state.arrays
  for n, used_E in enumerate(() if in_use_NE is None else in_use_NE):
    own = uneven.of_layer((arrays, sums), n, used_E)
    own_arrays, own_sums = jax.tree.map(lambda x: x[None], own)
    new = part.update(contract.RouterState.of_arrays(own_arrays), own_sums)
    new_arrays = jax.tree.map(lambda x: x[0], new.arrays)
    arrays = uneven.with_layer(arrays, n, used_E, new_arrays)
  return contract.RouterState.of_arrays(arrays)
