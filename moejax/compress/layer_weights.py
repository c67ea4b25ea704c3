"""LayerView: the weights of one layer, and which of their axes count experts.

Which axes these are follows from the layer's own parameters: a layer is built,
without memory, for E, 2 E and 3 E experts, and an axis that grows with them has
entries for each expert. Nothing here knows the name of a weight, so a scorer, a
kind of experts or a balance part that somebody adds is pruned like the others.

An axis is made of units, one or several for an expert, of equally many entries:

  experts   a unit for each routed expert: w_in_ED2F
  choices   a unit for each choice of the router; those behind the experts are
            of choices without computation: selection_bias_E
  logits    a unit for each logit, see `Router.expert_of_logit`: w_DE

Example, 3 experts and one choice without computation: the units of w_DE are of
the experts [0, 1, 2, -1]. Those of experts 2 and 0 are units 2, 0 and 3.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import numpy as np
from flax import nnx

from moejax.core import errors, trees
from moejax.model.config import ModelConfig
from moejax.moe.config import MoEConfig
from moejax.moe.layer import MoE
from moejax.parallel import mesh as meshes

# Where a model keeps the weights of its layers with experts, stacked.
PREFIX = 'moe/ffn/'
# The matrix from the logits of the layer before: its first axis is of that
# layer's experts.
RESIDUAL = 'residual'

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ExpertAxis:
  """An axis of a weight that has entries for each expert.

  Attributes:
    axis: its number, layers not counted.
    expert_U: the expert of each unit; -1 for a unit of no expert.
    block: entries of a unit.
  """

  axis: int
  expert_U: tuple[int, ...]
  block: int = 1


# The axes of each weight that has some, by the weight's path below PREFIX.
Axes = dict[str, tuple[ExpertAxis, ...]]


@dataclasses.dataclass(frozen=True)
class LayerView:
  """The weights of one layer with experts.

  Attributes:
    weights: arrays by their path in the layer, such as 'routed/w_in_ED2F',
      'router/w_DE' and 'router_state/loss_free/selection_bias_E'.
    axes: by path, the axes that count experts; from `expert_axes`.
  """

  weights: Mapping[str, np.ndarray]
  axes: Axes

  @property
  def experts(self) -> Arrays:
    """Arrays of the routed experts, by name."""
    return self._below('routed/')

  @property
  def router(self) -> Arrays:
    """Arrays of the scorer, by name."""
    return self._below('router/')

  @property
  def named(self) -> Arrays:
    """Experts and scorer by name, as IMPORTANCE and `merge_layer` take them."""
    return {**self.router, **self.experts}

  def take(
    self, index_K: np.ndarray, before_K: np.ndarray | None = None
  ) -> 'LayerView':
    """The layer with the experts of an index, in its order.

    An index of -1 makes an expert of zeros. Entries of no expert stay.

    Args:
      index_K: the old number of each new expert.
      before_K: the same of the layer before, whose logits a gating residual
        reads; None for the same experts.
    """
    index_K = np.asarray(index_K)
    before_K = index_K if before_K is None else np.asarray(before_K)
    weights = {
      path: taken(array, self.axes.get(path, ()), index_K, before_K, path)
      for path, array in self.weights.items()
    }
    return LayerView(weights, self.axes)

  def _below(self, prefix: str) -> Arrays:
    return {
      path.removeprefix(prefix): array
      for path, array in self.weights.items()
      if path.startswith(prefix)
    }


def layer_view(
  config: ModelConfig,
  read: Callable[[str, int], np.ndarray],
  layer: int,
  axes: Axes | None = None,
) -> LayerView:
  """The view of one layer; no other layer is read.

  Args:
    config: of the model.
    read: (path, layer) -> the array of one layer of a stacked weight, such as
      `reader_of` gives for a tree in memory.
    layer: n, counted among the layers with experts.
    axes: from `expert_axes`, for many layers; None makes them.
  """
  paths = _shapes(config, config.moe)
  axes = expert_axes(config) if axes is None else axes
  return LayerView({p: read(PREFIX + p, layer) for p in paths}, axes)


def reader_of(weights: object) -> Callable[[str, int], np.ndarray]:
  """A `read` of `layer_view` for a tree of weights in memory."""
  leaves = trees.leaves(weights)
  return lambda path, layer: np.asarray(leaves[path][layer])


def expert_axes(config: ModelConfig) -> Axes:
  """The axes that count experts, by path; weights without one are left out.

  Raises:
    InputError: the size of a weight depends on the number of experts, but not
      as so many entries for each.
  """
  moe = with_fixed_sizes(config.moe)
  sizes = [moe.num_experts * factor for factor in (1, 2, 3)]
  configs = [dataclasses.replace(moe, num_experts=size) for size in sizes]
  shapes = [_shapes(config, one) for one in configs]
  axes = {}
  for path, shape in shapes[0].items():
    grown = [one[path] for one in shapes]
    own = [
      _axis(path, axis, tuple(each[axis] for each in grown), configs)
      for axis in range(len(shape))
      if grown[0][axis] != grown[1][axis]
    ]
    if own:
      axes[path] = tuple(own)
  return axes


def with_fixed_sizes(moe: MoEConfig) -> MoEConfig:
  """The config with all sizes stated that scorers take from the experts."""
  extra = moe.router.extra_scorers(moe.num_choices)
  fixed = {
    name: scorer.with_fixed_sizes(num)
    for name, (scorer, num) in extra.items()
    if getattr(moe.router, name, None) is scorer
  }
  return dataclasses.replace(
    moe,
    scorer=moe.scorer.with_fixed_sizes(moe.num_logits),
    router=dataclasses.replace(moe.router, **fixed),
  )


def taken(
  array: np.ndarray,
  axes: tuple[ExpertAxis, ...],
  index_K: np.ndarray,
  before_K: np.ndarray,
  path: str = '',
) -> np.ndarray:
  """An array of one layer with some experts; see `LayerView.take`."""
  for own in axes:
    is_before = path == RESIDUAL and own.axis == 0
    index = before_K if is_before else index_K
    array = _along(array, own, units(own.expert_U, index))
  return array


def units(expert_U: tuple[int, ...], index_K: np.ndarray) -> np.ndarray:
  """The old unit of each new one; -1 for a unit of zeros.

  New units are in the order of the old ones, with the experts of the index in
  place of all: if a list of all experts comes twice, so does the new one.
  """
  new = []
  for start, stop in _runs(expert_U):
    if expert_U[start] < 0:
      new.append(np.arange(start, stop))
    else:
      new.append(np.where(index_K >= 0, start + index_K, -1))
  return np.concatenate(new)


def _runs(expert_U: tuple[int, ...]) -> list[tuple[int, int]]:
  """Start and end of each list of all experts, and of each run of none."""
  starts = [
    u
    for u, expert in enumerate(expert_U)
    if expert == 0 or (expert < 0 and (u == 0 or expert_U[u - 1] >= 0))
  ]
  return list(zip(starts, [*starts[1:], len(expert_U)], strict=True))


def _along(
  array: np.ndarray, own: ExpertAxis, unit_V: np.ndarray
) -> np.ndarray:
  """The units of an axis, zeros for -1."""
  entry = unit_V[:, None] * own.block + np.arange(own.block)
  entry = np.where(unit_V[:, None] < 0, -1, entry).reshape(-1)
  new = np.take(array, np.maximum(entry, 0), axis=own.axis)
  if (entry < 0).any():
    new[(slice(None),) * own.axis + (entry < 0,)] = 0
  return new


def _axis(
  path: str, axis: int, sizes: tuple[int, ...], configs: list[MoEConfig]
) -> ExpertAxis:
  """How an axis of such sizes counts the experts of such configs."""
  for kind in (_logits, _choices, _experts):
    lists = [kind(config) for config in configs]
    blocks = {
      size / len(expert_U) for size, expert_U in zip(sizes, lists, strict=True)
    }
    block = blocks.pop()
    if not blocks and block == int(block):
      return ExpertAxis(axis, tuple(map(int, lists[0])), int(block))
  raise errors.InputError(
    f'the size of {PREFIX}{path} depends on the number of experts, but it has '
    'no entries for each: no expert can be removed from such a layer'
  )


def _experts(moe: MoEConfig) -> np.ndarray:
  return np.arange(moe.num_experts)


def _choices(moe: MoEConfig) -> np.ndarray:
  return _or_none(np.arange(moe.num_choices), moe)


def _logits(moe: MoEConfig) -> np.ndarray:
  return _or_none(moe.router.expert_of_logit(moe.num_choices), moe)


def _or_none(expert_U: np.ndarray, moe: MoEConfig) -> np.ndarray:
  """-1 in place of choices without computation."""
  return np.where(expert_U < moe.num_experts, expert_U, -1)


def _shapes(config: ModelConfig, moe: MoEConfig) -> dict[str, tuple[int, ...]]:
  """The shape of every weight of one layer, by path."""
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  make = lambda: MoE(moe, config.width, 0.02, mesh, jax.random.key(0))
  state = nnx.state(nnx.eval_shape(make))
  flat = trees.leaves(nnx.to_pure_dict(state))
  return {path: tuple(leaf.shape) for path, leaf in flat.items()}
