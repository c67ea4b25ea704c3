"""Metric values that merge: over layers, micro-batches, shards and steps.

Each value holds sufficient statistics, so that a merge of values equals one
value over all the data: the means of 5 and of 7 examples merge to the mean of
12. An average of averages would weight each of the 5 examples more.
"""

from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp


class Value(Protocol):
  """A pytree that can be merged with another one of its class."""

  def merge(self, other: Any) -> Any:
    """The value over the data of both."""
    ...

  def all_reduce(self, axes: tuple[str, ...]) -> Any:
    """The value merged over mesh axes; for use inside `shard_map`."""
    ...

  def value(self) -> jax.Array:
    """The metric itself as an array."""
    ...


@flax.struct.dataclass
class Mean:
  """A weighted mean: the sum of weighted elements, and the sum of weights."""

  total: jax.Array
  weight: jax.Array

  @classmethod
  def of(cls, x: jax.Array | float, weight: jax.Array | float = 1.0) -> 'Mean':
    """The mean of all elements of `x`, each with its weight (broadcast)."""
    value = jnp.asarray(x, jnp.float32)
    w = jnp.broadcast_to(jnp.asarray(weight, jnp.float32), value.shape)
    return cls(jnp.sum(value * w), jnp.sum(w))

  def merge(self, other: 'Mean') -> 'Mean':
    """Adds totals and weights."""
    return Mean(self.total + other.total, self.weight + other.weight)

  def all_reduce(self, axes: tuple[str, ...]) -> 'Mean':
    """Adds totals and weights of all shards."""
    return Mean(*jax.lax.psum((self.total, self.weight), axes))

  def value(self) -> jax.Array:
    """The mean; 0 over nothing."""
    return jnp.where(
      self.weight == 0,
      0.0,
      self.total / jnp.where(self.weight == 0, 1, self.weight),
    )


@flax.struct.dataclass
class Sum:
  """A sum; sums of arrays are merged element by element."""

  total: jax.Array

  def merge(self, other: 'Sum') -> 'Sum':
    """Adds."""
    return Sum(self.total + other.total)

  def all_reduce(self, axes: tuple[str, ...]) -> 'Sum':
    """Adds all shards."""
    return Sum(jax.lax.psum(self.total, axes))

  def value(self) -> jax.Array:
    """The sum."""
    return self.total


@flax.struct.dataclass
class Max:
  """A maximum; no gradient goes through it."""

  top: jax.Array

  @classmethod
  def of(cls, x: jax.Array) -> 'Max':
    """The largest element of `x`."""
    return cls(jnp.max(jax.lax.stop_gradient(x)).astype(jnp.float32))

  def merge(self, other: 'Max') -> 'Max':
    """The larger."""
    return Max(jnp.maximum(self.top, other.top))

  def all_reduce(self, axes: tuple[str, ...]) -> 'Max':
    """The largest of all shards."""
    return Max(jax.lax.pmax(self.top, axes))

  def value(self) -> jax.Array:
    """The maximum."""
    return self.top


def _is_value(x: Any) -> bool:
  return isinstance(x, (Mean, Sum, Max))


def merge(a: Any, b: Any) -> Any:
  """Merges two trees of values of the same structure."""
  return jax.tree.map(lambda x, y: x.merge(y), a, b, is_leaf=_is_value)


def empty(tree: Any) -> Any:
  """Neutral values of the same shapes: merging with them changes nothing.

  Args:
    tree: a tree of values, or of their shapes as from `jax.eval_shape`.
  """

  def one(x: Value) -> Value:
    start = -jnp.inf if isinstance(x, Max) else 0
    return jax.tree.map(lambda a: jnp.full(a.shape, start, a.dtype), x)

  return jax.tree.map(one, tree, is_leaf=_is_value)


def all_reduce(tree: Any, axes: tuple[str, ...]) -> Any:
  """Merges a tree of values over mesh axes, inside `shard_map`."""
  return jax.tree.map(lambda x: x.all_reduce(axes), tree, is_leaf=_is_value)


def finish(tree: Any) -> Any:
  """A tree of values as a tree of plain arrays."""
  return jax.tree.map(lambda x: x.value(), tree, is_leaf=_is_value)
