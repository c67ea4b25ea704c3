"""The order of a model's layers, as loops over equal groups of them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from moejax.model.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Stage:
  """Equal groups of layers that one loop runs, group after group.

  Example: layers d d d m d m (d: dense, m: with experts) are two stages:
    kinds ('dense',), repeats 2, start 0, first {'dense': 0}
    kinds ('dense', 'moe'), repeats 2, start 2, first {'dense': 2, 'moe': 0}

  Attributes:
    kinds: kind of each layer in a group.
    repeats: number of groups.
    start: number of the first layer, counted over the model from 0.
    first: number of the first layer of each kind, counted over its kind.
  """

  kinds: tuple[str, ...]
  repeats: int
  start: int
  first: dict[str, int]

  def weights(self, kind: str, stack: Any) -> Any:
    """The weights of this stage's layers of one kind, by group.

    Args:
      kind: kind of the layers.
      stack: weights [N, ...] of all layers of this kind in the model.

    Returns:
      Weights [repeats, each, ...] for groups of `each` layers of this kind;
      [repeats, ...] if a group has one.
    """
    each, first = self.kinds.count(kind), self.first[kind]

    def one(x: jax.Array) -> jax.Array:
      x = x[first : first + each * self.repeats]
      return x if each == 1 else x.reshape(self.repeats, each, *x.shape[1:])

    return jax.tree.map(one, stack)

  def by_repeat(self, kind: str, weights: Any) -> Any:
    """The weights of one stage of a pipeline, by group.

    Args:
      kind: kind of the layers.
      weights: [R, layers, ...] of all repeats.

    Returns:
      Weights [K, R, ...] for K groups, or [K, each, R, ...] for groups of
      `each` layers of this kind; without the axis R if it is 1.
    """
    each = self.kinds.count(kind)

    def one(x: jax.Array) -> jax.Array:
      repeats, layers = x.shape[:2]
      x = x.reshape(repeats, layers // each, each, *x.shape[2:])
      x = jnp.moveaxis(x, 0, 2)
      x = x[:, :, 0] if repeats == 1 else x
      return x[:, 0] if each == 1 else x

    return jax.tree.map(one, weights)

  def each(self, weights: dict[str, Any]) -> list[Any]:
    """The weights of every layer of one group, in the group's order.

    Args:
      weights: by kind, the weights of one group, as `weights` returns them
        without the first axis.
    """
    layers = []
    for place, kind in enumerate(self.kinds):
      own, nth = weights[kind], self.kinds[:place].count(kind)
      if self.kinds.count(kind) > 1:
        own = jax.tree.map(lambda x, nth=nth: x[nth], own)
      layers.append(own)
    return layers


def of(config: ModelConfig) -> list[Stage]:
  """The stages of a model, first layers first."""
  first = config.first_dense if config.num_sparse else config.num_layers
  stages = [Stage(('dense',), first, 0, {'dense': 0})] if first else []
  if config.num_sparse:
    group = config.kinds[first : first + config.moe_every]
    before = {'dense': first, 'moe': 0}
    stages.append(Stage(group, config.num_sparse, first, before))
  return stages
