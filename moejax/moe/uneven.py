"""Layers of different numbers of experts, in one stack.

All layers of a model have the same shapes, so a layer of few experts has places
that no expert uses. `MoEConfig.used_choices` says which are in use. In the
others

  logits       are -1e30 when the router sees them: their probabilities are 0
  selection    is with a bias of -1e30, so that no score makes up for it
  assignments  to them go nowhere, whatever the router says
  balance      leaves them out: losses and states are those of a layer that has
               the used places alone
  statistics   leave them out

The mask is a constant of the config, which no gradient reaches. A model without
it is computed as if this file did not exist.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.moe import contract
from moejax.moe.routers.scores import LEAST_LOGIT


def in_use(
  experts_by_layer: tuple[int, ...],
  num_experts: int,
  num_groups: int,
  num_others: int,
) -> np.ndarray:
  """Which choices each layer uses, bool [N, num_experts + num_others].

  Example, 4 places in 2 groups, layers of 4 and 2 experts, one other choice:
    [[1, 1, 1, 1, 1], [1, 0, 1, 0, 1]]

  Args:
    experts_by_layer: number of experts of each layer.
    num_experts: places for experts in every layer.
    num_groups: groups of the router; those of a layer are of one size.
    num_others: choices without computation, which every layer uses.
  """
  size_N11 = np.array(experts_by_layer)[:, None, None] // num_groups
  place_GM = np.arange(num_experts).reshape(num_groups, -1)
  place_GM = place_GM % place_GM.shape[1]
  used_NGM = place_GM < size_N11
  used_NE = used_NGM.reshape(len(experts_by_layer), -1)
  return np.pad(used_NE, ((0, 0), (0, num_others)), constant_values=True)


def masked(
  router: contract.Router, inputs: contract.RouterInput, in_use_NE: np.ndarray
) -> contract.RouterInput:
  """The input of a layer's router, with the places without an expert masked.

  Args:
    router: of the layer.
    inputs: its input.
    in_use_NE: from `in_use`.
  """
  num_choices = in_use_NE.shape[1]
  used_E = jnp.asarray(in_use_NE)[inputs.layer]
  expert_C = router.expert_of_logit(num_choices)
  used_C = used_E[expert_C] | (expert_C < 0)
  extra = {
    name: jnp.where(used_E, score_TC, LEAST_LOGIT)
    if name in _per_choice(router, num_choices)
    else score_TC
    for name, score_TC in inputs.extra_scores.items()
  }
  bias_E = inputs.selection_bias_E
  bias_E = jnp.zeros(num_choices) if bias_E is None else bias_E
  return dataclasses.replace(
    inputs,
    logits_TE=jnp.where(used_C, inputs.logits_TE, LEAST_LOGIT),
    extra_scores=extra,
    selection_bias_E=jnp.where(used_E, bias_E, LEAST_LOGIT),
    in_use_E=used_E,
  )


def _per_choice(router: contract.Router, num_choices: int) -> set[str]:
  """Names of the extra scorers that have a score for each choice."""
  now = router.extra_scorers(num_choices)
  doubled = router.extra_scorers(2 * num_choices)
  return {
    name
    for name, (_, num) in now.items()
    if num == num_choices and doubled[name][1] == 2 * num
  }


def limited(
  routing: contract.Routing, inputs: contract.RouterInput
) -> contract.Routing:
  """The routing with assignments to places without an expert sent nowhere."""
  if inputs.in_use_E is None:
    return routing
  nowhere = len(inputs.in_use_E)
  used_E = jnp.append(inputs.in_use_E, False)
  used_A = used_E[routing.expert_A]
  return dataclasses.replace(
    routing,
    expert_A=jnp.where(used_A, routing.expert_A, nowhere),
    weight_A=jnp.where(used_A, routing.weight_A, 0.0),
  )


def of_layer(tree: Any, layer: int, used_E: np.ndarray) -> Any:
  """The arrays of one layer, with entries of the used places alone.

  Axes that count choices are those with an E in the array's name: 'count_E',
  'bins_EB'.

  Args:
    tree: arrays by name, perhaps nested, with layers in front.
    layer: number of the layer.
    used_E: bool, its row of `in_use`.
  """
  place_K = np.flatnonzero(used_E)

  def one(keys: tuple[Any, ...], x: jax.Array) -> jax.Array:
    x = x[layer]
    for axis in expert_axes(keys, x.ndim):
      x = jnp.take(x, place_K, axis=axis)
    return x

  return jax.tree_util.tree_map_with_path(one, tree)


def with_layer(tree: Any, layer: int, used_E: np.ndarray, new: Any) -> Any:
  """The inverse of `of_layer`: the tree with a layer's used entries replaced.

  Args:
    tree: arrays by name, with layers in front, at most one axis E in each.
    layer: number of the layer.
    used_E: bool, its row of `in_use`.
    new: a tree as `of_layer` gives it.
  """
  place_K = np.flatnonzero(used_E)

  def one(keys: tuple[Any, ...], x: jax.Array, new: jax.Array) -> jax.Array:
    index: tuple[Any, ...] = (layer,)
    for axis in expert_axes(keys, x.ndim - 1):
      index = (layer, *[slice(None)] * axis, place_K)
    return x.at[index].set(new)

  return jax.tree_util.tree_map_with_path(one, tree, new)


def expert_axes(keys: tuple[Any, ...], ndim: int) -> list[int]:
  """The axes E of an array, from the name that ends its path in a tree."""
  letters = str(getattr(keys[-1], 'key', '')).rpartition('_')[2]
  if len(letters) != ndim:
    return []
  return [axis for axis, letter in enumerate(letters) if letter == 'E']
