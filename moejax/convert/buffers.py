"""Host memory into which the tensors of a checkpoint are read.

A weight of moejax is made of many tensors of a checkpoint (an expert's matrix
in a layer, say). A buffer holds one region of such a weight: the block that
lies on one device.
"""

import math
from typing import Protocol

import numpy as np

# Bytes. JAX makes a CPU array of a buffer of this alignment without a copy.
ALIGNED = 64
# Start and stop of a block along each axis of its weight.
Region = tuple[tuple[int, int], ...]


class Buffers(Protocol):
  """Allocates buffers and records which tensors have been read into them.

  `PlainMemory` forgets both with the process. `staging.Staging` keeps both in
  files, so that a later process need not read those tensors again.
  """

  def empty(self, path: str, region: Region, dtype: np.dtype) -> np.ndarray:
    """A buffer for a region of a weight, aligned to ALIGNED bytes.

    It is zero, except for tensors that an earlier process has read into it.
    Callers request all regions of one weight before those of the next.

    Args:
      path: path of the weight.
      region: the region, which gives the buffer's shape.
      dtype: type of the buffer.
    """

  def has(self, name: str) -> bool:
    """Whether the tensor is in its buffers already and need not be read."""

  def placed(self, name: str, num_bytes: int) -> None:
    """Records that a tensor, `num_bytes` as stored, is in its buffers now."""


class PlainMemory:
  """Buffers in the memory of this process."""

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
  """Shape of a region.

  Example:
    shape_of(((0, 2), (3, 7)))  (2, 4)
  """
  return tuple(stop - start for start, stop in region)
