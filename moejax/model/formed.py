"""Weights that are formed from others, layer by layer, where they are used.

The parts of all layers are in memory, and what they form of one layer only.
"""

from typing import Any

import jax
from flax import nnx


class Formed:
  """The parts of a weight: the base of pytrees that stand for a weight."""

  def array(self) -> jax.Array:
    """The weight."""
    raise NotImplementedError


def arrays(weights: Any) -> Any:
  """A tree of weights with the weight in place of each `Formed`."""
  return jax.tree.map(
    lambda x: x.array() if is_formed(x) else x, weights, is_leaf=is_formed
  )


def as_state(weights: Any) -> nnx.State:
  """A tree of arrays and of `Formed` as nnx's state, each a parameter."""
  return nnx.State(jax.tree.map(nnx.Param, weights, is_leaf=is_formed))


def is_formed(x: Any) -> bool:
  """Whether a node of a tree is the parts of a weight."""
  return isinstance(x, Formed)


def some(weights: Any) -> bool:
  """Whether a tree of weights has a `Formed`."""
  leaves = jax.tree.leaves(weights, is_leaf=is_formed)
  return any(is_formed(x) for x in leaves)
