"""Memory in which weights are put together while a checkpoint is read."""

import math
from typing import Protocol

import numpy as np

ALIGNED = 64  # bytes: such buffers become arrays on CPU without a copy
# Begin and end of a block along each axis of its weight.
Region = tuple[tuple[int, int], ...]


class Buffers(Protocol):
  """Memory of some kind; an earlier process may have filled some of it."""

  def empty(self, path: str, region: Region, dtype: np.dtype) -> np.ndarray:
    """An aligned buffer for a region of a weight: zeros but for what is there.

    Weights are asked for one after the other.
    """

  def has(self, name: str) -> bool:
    """Whether a tensor is in place, and need not be read."""

  def placed(self, name: str, num_bytes: int) -> None:
    """Records that a tensor of so many bytes is in place now."""


class PlainMemory:
  """Plain memory, which ends with the process."""

  def empty(self, path: str, region: Region, dtype: np.dtype) -> np.ndarray:
    del path
    shape = shape_of(region)
    size = math.prod(shape) * dtype.itemsize
    raw = np.zeros(size + ALIGNED, np.uint8)
    skip = -raw.ctypes.data % ALIGNED
    return raw[skip : skip + size].view(dtype).reshape(shape)

  def has(self, name: str) -> bool:
    del name
    return False

  def placed(self, name: str, num_bytes: int) -> None:
    del name, num_bytes


MEMORY = PlainMemory()


def shape_of(region: Region) -> tuple[int, ...]:
  """Shape of a region: ((0, 2), (3, 7)) has (2, 4)."""
  return tuple(stop - start for start, stop in region)
