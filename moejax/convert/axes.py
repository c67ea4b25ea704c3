"""Reorders, splits and merges the axes of an array, as two patterns say.

A pattern names the axes of an array, the slowest first. Names in brackets are
merged into one axis, in row-major order. A number stands for an axis of size 1.

Example, x of shape [8, 6], sizes H=4, K=2, D=6:

  y = unpack(x, '(H K) D', 'D H K', sizes)
  y                                     [6, 4, 2], y[d, h, k] = x[2 h + k, d]
  pack(y, 'D H K', '(H K) D')           [8, 6], equal to x
"""

import math
import re

import numpy as np


def parse(pattern: str) -> list[tuple[str, ...]]:
  """The names of each axis: several where axes are merged.

  Example:
    parse('(H K) D')  [('H', 'K'), ('D',)]
  """
  groups = re.findall(r'\(([^)]*)\)|(\S+)', pattern)
  return [tuple((merged or single).split()) for merged, single in groups]


def names(pattern: str) -> list[str]:
  """All names of a pattern, in order, without its numbers."""
  flat = [name for group in parse(pattern) for name in group]
  return [name for name in flat if not name.isdigit()]


def shape(pattern: str, sizes: dict[str, int]) -> tuple[int, ...]:
  """The shape of an array whose axes are `pattern`.

  Example:
    shape('(H K) D', {'H': 4, 'K': 2, 'D': 6})  (8, 6)
  """
  return tuple(
    math.prod(1 if name.isdigit() else sizes[name] for name in group)
    for group in parse(pattern)
  )


def unpack(
  x: np.ndarray, theirs: str, ours: str, sizes: dict[str, int]
) -> np.ndarray:
  """Splits and reorders the axes of an array.

  Args:
    x: an array whose axes are `theirs`.
    theirs: pattern of the axes of `x`.
    ours: the same names in another order, none of them in brackets.
    sizes: size of each axis by name.

  Returns:
    A view of `x` with one axis for each name of `ours`.
  """
  order = names(theirs)
  x = x.reshape([sizes[name] for name in order])
  return x.transpose([order.index(name) for name in names(ours)])


def pack(x: np.ndarray, ours: str, theirs: str) -> np.ndarray:
  """The inverse of `unpack`: one axis per name to merged axes, by a copy."""
  order, target = names(ours), names(theirs)
  sizes = dict(zip(order, x.shape, strict=True))
  x = x.transpose([order.index(name) for name in target])
  return x.reshape(shape(theirs, sizes))
