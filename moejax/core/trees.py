"""Leaves of a pytree by path, and the numbers of their elements and bytes."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax


def path_of(keys: tuple[Any, ...]) -> str:
  """A JAX key path as text: 'blocks/moe/experts/w_up'."""
  names = []
  for key in keys:
    name = getattr(key, 'key', getattr(key, 'name', getattr(key, 'idx', key)))
    names.append(str(name))
  return '/'.join(names)


def leaves(tree: Any) -> dict[str, Any]:
  """Every leaf by its path, in the tree's order."""
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {path_of(keys): leaf for keys, leaf in flat}


def map_paths(f: Callable[..., Any], tree: Any, *others: Any) -> Any:
  """Applies `f(path, leaf)` to every leaf, or `f(path, leaf, other, ...)`."""
  return jax.tree_util.tree_map_with_path(
    lambda k, *x: f(path_of(k), *x), tree, *others
  )


def count(tree: Any) -> int:
  """The number of elements of all leaves."""
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def num_bytes(tree: Any) -> int:
  """The bytes of all leaves."""
  return sum(
    math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )


def nest(by_path: Mapping[str, Any], separator: str = '/') -> dict[str, Any]:
  """Nested dictionaries of leaves by path: the inverse of `leaves`.

  Example: {'a/b': 1, 'a/c': 2} -> {'a': {'b': 1, 'c': 2}}
  """
  tree: dict[str, Any] = {}
  for path, leaf in by_path.items():
    *parents, last = path.split(separator)
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = leaf
  return tree
