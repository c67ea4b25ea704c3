"""Picture: an image of a benchmark's row, which is decoded when it is asked."""

import dataclasses
import hashlib

import numpy as np
from etils import epath

from moejax.core import errors
from moejax.vision import images


@dataclasses.dataclass(frozen=True)
class Picture:
  """The bytes of an image, or its place in a folder.

  Attributes:
    where: the place, for messages.
    data: the bytes of its file; None: they are read from the folder.
    folder: the folder of the row's file.
    name: path of the image in it.
  """

  where: str
  data: bytes | None = None
  folder: str = ''
  name: str = ''

  def pixels(self, config: images.ReadConfig) -> np.ndarray:
    """uint8 [H, W, 3].

    Raises:
      InputError: it cannot be read; the message names its place.
    """
    if self.data is not None:
      return images.decode(self.data, f'of {self.where}', config)
    try:
      return images.read(self.folder, self.name, config)
    except errors.InputError as e:
      raise errors.InputError(f'{self.where}: {e}') from None

  def digest(self) -> str:
    """SHA-256 of the bytes, or of the path where they are in a file."""
    data = self.name.encode() if self.data is None else self.data
    return hashlib.sha256(data).hexdigest()


def of_file(path: str, where: str) -> Picture:
  """The image of a file that a user names.

  Args:
    path: of the file.
    where: what names it, for messages.
  """
  file = epath.Path(path)
  return Picture(where, None, str(file.parent), file.name)


def of_cell(value: object, folder: epath.Path, where: str) -> Picture | None:
  """The image of a row's cell; None for an empty one.

  Args:
    value: {'bytes': ..., 'path': ...}, as the hub's parquet files have it, or
      the path of a file.
    folder: the folder of the row's file, below which paths lead.
    where: the place, for messages.

  Raises:
    InputError: it is none of these.
  """
  if value is None or value == '':
    return None
  if isinstance(value, dict):
    data, value = value.get('bytes'), value.get('path')
    if isinstance(data, bytes) and data:
      return Picture(where, data)
  if isinstance(value, bytes):
    return Picture(where, value)
  if isinstance(value, str) and value:
    return Picture(where, None, str(folder), value)
  raise errors.InputError(
    f'{where} is no image: it must be the bytes of a file, or a path below '
    f'{errors.shown(folder)}'
  )
