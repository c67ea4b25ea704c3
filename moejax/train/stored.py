"""A leaf of a saved state that is read in pieces.

Orbax reads a leaf whole. Its files are TensorStore's, whose smallest unit is a
chunk. A chunk of a stack of large layers is one layer (see state_files). A
chunk of another leaf is some number of indices of the first axis that divides
its length. One chunk is read at a time.
"""

from typing import Any

import numpy as np
import tensorstore
from etils import epath

from moejax.core import files


class Stored:
  """A leaf on disk, indexed like an array; keeps the last chunk in memory.

  Example, a stack [27, 64, 2048] with a chunk for each layer:
    leaf[3, 5]  reads layer 3, [64, 2048], and returns [2048]
    leaf[3, 6]  reads nothing
    leaf[4, 0]  reads layer 4, and drops layer 3
  """

  def __init__(self, folder: epath.Path, name: str):
    """Reads nothing but sizes.

    Args:
      folder: folder of a state that Orbax has written.
      name: path of the leaf.
    """
    path = folder.as_posix()
    base = f'file://{path}' if files.is_local(path) else path
    spec = {
      'driver': 'zarr',
      'kvstore': {
        'driver': 'ocdbt',
        'base': f'{base}/',
        'path': name.replace('/', '.') + '/',
      },
    }
    self._store = tensorstore.open(spec, open=True, read=True).result()
    shape: Any = self._store.chunk_layout.read_chunk.shape
    self._chunk = int(shape[0])
    # The chunk in memory, and its first index on the first axis.
    self._begin, self._in_memory = 0, np.zeros(0)

  def __getitem__(self, index: tuple[int | slice, ...]) -> np.ndarray:
    first, *rest = index
    if isinstance(first, slice):
      return self._store[index].read().result()
    at = first - self._begin
    if not 0 <= at < len(self._in_memory):
      self._in_memory = np.zeros(0)  # frees the chunk before the next is read
      self._begin = first - first % self._chunk
      at = first - self._begin
      end = self._begin + self._chunk
      self._in_memory = self._store[self._begin : end].read().result()
    return self._in_memory[(at, *rest)]
