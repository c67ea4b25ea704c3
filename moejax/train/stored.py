"""A leaf of a saved state, of which no more is read than need be.

Orbax reads a leaf whole. Its files are TensorStore's, whose smallest unit is a
chunk: of a stack of large layers it has one layer (see state_files), of others
any number of places, a divisor of all. As many are read at a time.
"""

from typing import Any

import numpy as np
import tensorstore
from etils import epath

from moejax.core import files


class Stored:
  """Is indexed as an array, place by place along its first axis.

  Example, of a stack [27, 64, 2048] with a chunk for each layer:
    leaf[3, 5]  reads [64, 2048], the 4th layer, and gives [2048]
    leaf[3, 6]  reads nothing
    leaf[4, 0]  reads the 5th layer, and forgets the 4th
  """

  def __init__(self, folder: epath.Path, name: str):
    """Reads nothing but sizes.

    Args:
      folder: that Orbax has written.
      name: the path of the leaf.
    """
    place = folder.as_posix()
    base = f'file://{place}' if files.is_local(place) else place
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
    self._begin, self._places = 0, np.zeros(0)

  def __getitem__(self, index: tuple[int | slice, ...]) -> np.ndarray:
    first, *rest = index
    if isinstance(first, slice):
      return self._store[index].read().result()
    at = first - self._begin
    if not 0 <= at < len(self._places):
      self._places = np.zeros(0)  # not both at once
      self._begin = first - first % self._chunk
      at = first - self._begin
      end = self._begin + self._chunk
      self._places = self._store[self._begin : end].read().result()
    return self._places[(at, *rest)]
