"""Whole checkpoints with fewer experts: pruned, masked or merged.

`pruned` and `merged` say what the smaller model is, a `Smaller`: its config,
and for each layer the old expert of every new one. `Smaller.leaf` makes one
weight of it, layer by layer; `prune` and `merge` make all of them from a tree
in memory.

  removed    experts, and all that belongs to them: their logits in the router,
             selection biases, moments of these, rows of a gating residual
  masked     the same choice of experts for every token, but all weights stay:
             those that the mask takes out lie behind the others
  cut        merged experts, with the router of the dominant ones
  shared     merged experts, with the whole router: each old expert has a copy
             of its merged one, M-SMoE's function (arXiv 2310.01334)

Modules of multi-token prediction are left out of a model with fewer experts:
their layers share the config of the others, and no statistics say which of
their experts matter.

Different numbers of experts. If layers keep different numbers, every layer has
as many as the largest, K, and `moe.experts_by_layer` says how many of them are
in use. These are the first ones of the layer; with a router of G groups, the
first ones of each group of K / G. The others are zeros, and never chosen.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from moejax.compress import layer_weights
from moejax.compress.layer_weights import PREFIX, Arrays, Axes
from moejax.compress.merge import MergedLayer
from moejax.compress.needs import check_mergeable, router_needs
from moejax.convert import load
from moejax.convert.save import Indexed
from moejax.core import errors, table, trees
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.moe import contract
from moejax.moe.expert_needs import ExpertNeeds

# Where a model keeps all weights of its layers with experts, stacked.
STACK = 'moe/'
# path -> the weight, which is read where it is indexed.
Get = Callable[[str], Indexed]


@dataclasses.dataclass(frozen=True)
class Smaller:
  """A model with fewer experts, and where its weights come from.

  Attributes:
    source: config of the model that it is made from.
    config: config of the smaller model.
    index_NK: int, for each of the N layers with experts the old number of each
      of its K experts; -1 for an expert of zeros.
    axes: of the source, from `layer_weights.expert_axes`.
    experts: for each layer the arrays of its K experts, by name, that take the
      place of old ones; empty if all are old ones.
  """

  source: ModelConfig
  config: ModelConfig
  index_NK: np.ndarray
  axes: Axes
  experts: tuple[Arrays, ...] = ()

  @property
  def shapes(self) -> build.Weights:
    """The tree of the shapes of the smaller model's weights."""
    return load.shapes(self.config)

  def tree(self, get: Get) -> build.Weights:
    """All weights.

    Args:
      get: returns the weight of the source at a path.
    """
    return trees.map_paths(lambda path, _: self.leaf(path, get), self.shapes)

  def leaf(self, path: str, get: Get) -> np.ndarray:
    """The weight at a path; its layers are read one after the other.

    Args:
      path: of a weight of the smaller model.
      get: returns the weight of the source at a path.
    """
    source = get(path)
    if not path.startswith(STACK):
      return np.asarray(source[...])
    # Layers of multi-token prediction are the last ones of the stack.
    num_layers = self.config.num_moe + self.config.mtp_layers
    if not path.startswith(PREFIX):
      return np.asarray(source[:num_layers])
    first = self.layer(path, 0, np.asarray(source[0]))
    leaf = np.empty((num_layers, *first.shape), first.dtype)
    leaf[0] = first
    for n in range(1, num_layers):
      leaf[n] = self.layer(path, n, np.asarray(source[n]))
    return leaf

  def layer(self, path: str, n: int, array: np.ndarray) -> np.ndarray:
    """The weight at a path in layer n, from the old one of that layer."""
    name = path.removeprefix(PREFIX)
    expert_name = name.removeprefix('routed/')
    if n >= len(self.index_NK):
      return array
    if self.experts and name != expert_name:
      return self.experts[n][expert_name]
    before_K = self.index_NK[max(n - 1, 0)]
    return layer_weights.taken(
      array, self.axes.get(name, ()), self.index_NK[n], before_K, name
    )


def prune(
  weights: build.Weights,
  config: ModelConfig,
  kept_NE: np.ndarray,
  *,
  remove: bool = True,
) -> tuple[build.Weights, ModelConfig]:
  """The weights and the config of a model without some experts.

  Args:
    weights: tree of the weights of the model.
    config: of the model.
    kept_NE: bool, the experts that stay in each of the N layers with experts.
    remove: whether the others are removed; False masks them in the router.

  Returns:
    The tree and config of the smaller model. If all experts stay, they are
    those of the model.

  Raises:
    InputError: the router cannot work with these experts.
  """
  return _made(weights, pruned(config, kept_NE, remove=remove))


def merge(
  weights: build.Weights,
  config: ModelConfig,
  layers: Sequence[MergedLayer],
  router: str = 'shared',
) -> tuple[build.Weights, ModelConfig]:
  """The weights and the config of a model with merged experts.

  Args:
    weights: tree of the weights of the model.
    config: of the model.
    layers: for each of the N layers with experts, from `merge_layer`.
    router: 'shared' or 'cut', see ROUTERS_OF_MERGED.

  Raises:
    InputError: the router cannot work with the experts that are left.
  """
  return _made(weights, merged(config, layers, router))


def pruned(
  config: ModelConfig, kept_NE: np.ndarray, *, remove: bool = True
) -> Smaller:
  """What a model without some experts is made of; arguments as `prune`."""
  needs = router_needs(config)
  kept_NGM = _checked(config, kept_NE).reshape(
    config.num_moe, needs.num_groups, -1
  )
  num_layers, _, num_members = kept_NGM.shape
  has_group_NG = np.asarray(kept_NGM.any(axis=-1))
  num_groups = int(has_group_NG[0].sum())
  size_N = kept_NGM.sum(axis=-1).max(axis=-1)
  slots = int(size_N.max()) if remove else num_members
  # Kept experts first, in the order of their numbers, in every group.
  place_NGM = np.argsort(~kept_NGM, axis=-1, kind='stable')[..., :slots]
  index_NGM = place_NGM + np.arange(needs.num_groups)[:, None] * num_members
  if remove:
    is_used = np.arange(slots) < size_N[:, None, None]
    index_NGM = np.where(is_used, index_NGM, -1)
    index_NGM = index_NGM[has_group_NG]
  index_NK = index_NGM.reshape(num_layers, -1)
  router = config.moe.router
  if num_groups < needs.num_groups:
    if not remove:
      raise errors.InputError(
        f'{needs.num_groups - num_groups} groups of the router keep no expert: '
        'they can be removed, but not masked'
      )
    router = router.with_groups(num_groups)
  return _smaller(config, router, index_NK, size_N * num_groups)


def merged(
  config: ModelConfig, layers: Sequence[MergedLayer], router: str = 'shared'
) -> Smaller:
  """What a model with merged experts is made of; arguments as `merge`."""
  check_mergeable(config)
  return table.lookup('router', ROUTERS_OF_MERGED, router)(config, layers)


def _cut(config: ModelConfig, layers: Sequence[MergedLayer]) -> Smaller:
  """The router keeps the logits of the dominant experts alone."""
  shape = len(layers), config.moe.num_experts
  kept_NE = np.zeros(shape, bool)
  for kept_E, layer in zip(kept_NE, layers, strict=True):
    kept_E[layer.dominant_G] = True
  smaller = pruned(config, kept_NE)
  experts = tuple(
    # Of an expert of zeros the place is -1, in which zeros are.
    _placed(layer, index_K)
    for layer, index_K in zip(layers, smaller.index_NK, strict=True)
  )
  return dataclasses.replace(smaller, experts=experts)


def _shared(config: ModelConfig, layers: Sequence[MergedLayer]) -> Smaller:
  """The router keeps all logits; each expert is a copy of its merged one."""
  index_NK = np.tile(np.arange(config.moe.num_experts), (len(layers), 1))
  experts = tuple(layer.expanded() for layer in layers)
  return Smaller(config, config, index_NK, {}, experts)


# What becomes of the router of merged experts.
ROUTERS_OF_MERGED: dict[
  str, Callable[[ModelConfig, Sequence[MergedLayer]], Smaller]
] = {'cut': _cut, 'shared': _shared}


def _placed(layer: MergedLayer, index_K: np.ndarray) -> Arrays:
  """The merged experts in the places of their dominant ones, else zeros."""
  place_K = np.searchsorted(layer.dominant_G, index_K)
  place_K = np.minimum(place_K, len(layer.dominant_G) - 1)
  experts = {}
  for name, array in layer.experts.items():
    experts[name] = array[place_K]
    experts[name][index_K < 0] = 0
  return experts


def _checked(config: ModelConfig, kept_NE: np.ndarray) -> np.ndarray:
  """The choice as bools, after the checks that every smaller model passes."""
  kept_NE = np.asarray(kept_NE, bool)
  wanted = config.num_moe, config.moe.num_experts
  if kept_NE.shape != wanted:
    raise errors.InputError(
      f'a choice for {" x ".join(map(str, kept_NE.shape))} experts, but the '
      f'model has {wanted[0]} layers of {wanted[1]}'
    )
  if config.moe.used_choices is not None:
    # Places without an expert have nothing to keep.
    kept_NE = kept_NE & config.moe.used_choices[:, : wanted[1]]
  router_needs(config)
  needs = config.moe.router.expert_needs
  size_NG = kept_NE.reshape(len(kept_NE), needs.num_groups, -1).sum(axis=-1)
  for layer, size_G in enumerate(size_NG):
    _check_layer(layer, size_G, needs, config.moe.zero_computation.num)
  num_groups_N = (size_NG > 0).sum(axis=-1)
  if len(set(num_groups_N)) > 1:
    raise errors.InputError(
      f'layers keep {", ".join(map(str, num_groups_N))} groups of the '
      f"router's {needs.num_groups}, but all layers have the same number of "
      'groups'
    )
  return kept_NE


def _check_layer(
  layer: int, size_G: np.ndarray, needs: ExpertNeeds, num_others: int
) -> None:
  """Raises InputError if a router cannot work with so many of each group."""
  at_least = max(1, needs.at_least - num_others)
  if size_G.sum() < at_least:
    raise errors.InputError(
      f'layer {layer} keeps {size_G.sum()} experts, but its router needs '
      f'{at_least}; keep more'
    )
  if needs.num_groups == 1:
    return
  size_g = size_G[size_G > 0]
  if len(size_g) < needs.least_groups:
    raise errors.InputError(
      f'layer {layer} keeps {len(size_g)} groups of the router, but it needs '
      f'{needs.least_groups}; keep experts of more groups'
    )
  if len(set(size_g)) > 1:
    raise errors.InputError(
      f'layer {layer} keeps {", ".join(map(str, size_G))} experts of the '
      f"router's {needs.num_groups} groups, but groups are of one size; keep "
      'equally many of each, or none of a group'
    )
  if size_g[0] < needs.per_group:
    raise errors.InputError(
      f'layer {layer} keeps {size_g[0]} experts in a group, but the router '
      f'needs {needs.per_group} in each group; keep more of it'
    )


def _smaller(
  config: ModelConfig,
  router: contract.Router,
  index_NK: np.ndarray,
  size_N: np.ndarray,
) -> Smaller:
  """The smaller model of these experts, of which layer n uses size_N[n]."""
  axes = layer_weights.expert_axes(config)
  num = index_NK.shape[1]
  if num == config.moe.num_experts and (size_N == num).all():
    return Smaller(config, config, index_NK, axes)
  moe = dataclasses.replace(config.moe, router=router)
  moe = layer_weights.with_fixed_sizes(moe)
  moe = dataclasses.replace(moe, num_experts=num)
  sizes = tuple(map(int, size_N)) if (size_N != num).any() else ()
  moe = dataclasses.replace(moe, experts_by_layer=sizes)
  new = dataclasses.replace(config, moe=moe, mtp_layers=0)
  new.check()
  return Smaller(config, new, index_NK, axes)


def _made(
  weights: build.Weights, smaller: Smaller
) -> tuple[build.Weights, ModelConfig]:
  """The weights and config of a smaller model, from a tree in memory."""
  if smaller.config is smaller.source and not smaller.experts:
    return weights, smaller.config
  leaves: dict[str, Any] = trees.leaves(weights)
  return smaller.tree(lambda path: leaves[path]), smaller.config
