"""Arrays between two orders of axes, given as patterns.

A pattern names an array's axes; those in brackets are one axis together, the
first of them the slowest, and a number is an axis of size 1.

Example, x of shape [8, 6], H = 4 and K = 2:

  unpack(x, '(H K) D', 'D H K', sizes)   [6, 4, 2], [d, h, k] = x[2 h + k, d]
  pack(that, 'D H K', '(H K) D')         x again
"""

import math
import re

import numpy as np


def parse(pattern: str) -> list[tuple[str, ...]]:
  """The names that make up each axis.

  Example:
    parse('(H K) D')  [('H', 'K'), ('D',)]
  """
  groups = re.findall(r'\(([^)]*)\)|(\S+)', pattern)
  return [tuple((group or one).split()) for group, one in groups]


def names(pattern: str) -> list[str]:
  """All names, without numbers."""
  flat = [name for group in parse(pattern) for name in group]
  return [name for name in flat if not name.isdigit()]


def shape(pattern: str, sizes: dict[str, int]) -> tuple[int, ...]:
  """The shape of an array with these axes."""
  return tuple(
    math.prod(1 if name.isdigit() else sizes[name] for name in group)
    for group in parse(pattern)
  )


def unpack(
  x: np.ndarray, theirs: str, ours: str, sizes: dict[str, int]
) -> np.ndarray:
  """The array as one axis per name in the order of `ours`; a view of it."""
  order = names(theirs)
  x = x.reshape([sizes[name] for name in order])
  return x.transpose([order.index(name) for name in names(ours)])


def pack(x: np.ndarray, ours: str, theirs: str) -> np.ndarray:
  """The inverse of `unpack`."""
  order, target = names(ours), names(theirs)
  sizes = dict(zip(order, x.shape, strict=True))
  x = x.transpose([order.index(name) for name in target])
  return x.reshape(shape(theirs, sizes))
