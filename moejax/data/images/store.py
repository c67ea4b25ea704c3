"""Store: the prepared images of a text, or their features, in one file.

An image that several conversations name is kept once. A store is a folder
beside the caches of rows, named by a hash of everything that its contents
depend on, with `meta.json` and `images.bin`: arrays of one shape, one after the
other, memory-mapped for training. It is whole or absent: a process that is
killed begins it anew.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from moejax.core import errors, files
from moejax.data import request as request_lib
from moejax.data import sums as sums_lib
from moejax.data.images.config import Images
from moejax.vision import images as reading
from moejax.vision import pillow, preprocessing

VERSION = 1  # of the layout and of what is kept
META, CONTENTS = 'meta.json', 'images.bin'
_AT_ONCE = 64  # images in memory before they are written


@dataclasses.dataclass(frozen=True)
class Store:
  """The images of a text, by their number.

  Attributes:
    digest: a checksum of all that they were made from.
    numbers: the number of each good image, by its name.
    problems: what is wrong with each other one, by its name.
    array_M: the images [M, h, w, 3], uint8, or features [M, N, D], float32.
  """

  digest: str
  numbers: dict[str, int]
  problems: dict[str, str]
  array_M: np.ndarray


def make(
  names: Sequence[str],
  images: Images,
  folder: pathlib.Path,
  sums: sums_lib.Sums,
  note: Callable[[str], None],
) -> Store:
  """The store of some images; made if it does not exist.

  Args:
    names: paths of images below `images.folder`, in any order.
    images: the config.
    folder: the folder of all caches.
    sums: checksums of files.
    note: called with lines for the user.

  Raises:
    InputError: the folder of images, or the file of features, cannot be read.
  """
  reader = _Features(images) if images.features else _Pixels(images)
  listed = sorted({*names})
  digest = _digest(listed, images, reader.stamps(listed, sums))
  path = folder / f'images-{digest[:16]}'
  if not path.exists():
    folder.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f'.{path.name}.lock')
    report = lambda progress: note(progress.note)
    with request_lib.locked(lock, path.name, report):
      if not path.exists():
        note(f'reading {len(listed):,} images of {images.folder}')
        _write(path, listed, reader)
  return _opened(path, digest)


class _Pixels:
  """Reads and prepares the images of a folder."""

  dtype = np.dtype(np.uint8)

  def __init__(self, images: Images):
    self.images = images
    self.shape = (*images.size, 3)
    if not pathlib.Path(images.folder).is_dir():
      raise errors.InputError(
        f'data.images.folder={images.folder!r} is no folder'
      )
    pillow.modules()  # without it every image would count as bad

  def stamps(self, names: Sequence[str], sums: sums_lib.Sums) -> list[str]:
    """A checksum of each image; '' for those that cannot be read."""
    found = ((name, self._file(name)) for name in names)
    paths = {name: path for name, path in found if path is not None}
    digests = dict(zip(paths, sums.of([*paths.values()]), strict=True))
    return [digests.get(name, '') for name in names]

  def _file(self, name: str) -> pathlib.Path | None:
    """The file of an image; None if it is none that may be read."""
    root = os.path.join(os.path.abspath(self.images.folder), '')
    path = pathlib.Path(root, name)
    try:
      if not os.path.abspath(path).startswith(root):
        reading.find(root, name)  # slower, and knows links
      readable = path.is_file() and os.access(path, os.R_OK)
    except (errors.InputError, OSError, ValueError):  # too long; a NUL
      return None
    return path if readable else None

  def __call__(self, name: str) -> np.ndarray | str:
    """An image, or what is wrong with it."""
    try:
      image_HWC = reading.read(self.images.folder, name, self.images.read)
      return preprocessing.shaped(image_HWC, self.images.prepare)
    except errors.InputError as e:
      return str(e)


class _Features:
  """Reads features from a file of tensors."""

  dtype = np.dtype(np.float32)

  def __init__(self, images: Images):
    self.images = images
    try:
      self.file = safe_open(images.features, framework='numpy')
      self.known = {*self.file.keys()}
      shapes = {
        tuple(self.file.get_slice(name).get_shape()) for name in self.known
      }
    except (OSError, SafetensorError) as e:
      raise errors.InputError(
        f'data.images.features={images.features!r} cannot be read: {e}'
      ) from None
    shape = next(iter(shapes), ())
    if len(shapes) != 1 or len(shape) != 2 or shape[0] != images.tokens:
      listed = ', '.join(map(str, sorted(shapes))) or 'none'
      raise errors.InputError(
        f'data.images.features={images.features!r} has tensors of the shapes '
        f'{listed}; all must be [{images.tokens}, D] by data.images.tokens'
      )
    self.shape = shape

  def stamps(self, names: Sequence[str], sums: sums_lib.Sums) -> list[str]:
    """The checksum of the file."""
    del names
    return sums.of([pathlib.Path(self.images.features)])

  def __call__(self, name: str) -> np.ndarray | str:
    """The features of an image, or what is wrong with them."""
    if name not in self.known:
      return f'image {errors.shown(name)} is not in {self.images.features}'
    return self.file.get_tensor(name).astype(np.float32)


def _digest(names: list[str], images: Images, stamps: list[str]) -> str:
  """A checksum of all that a store depends on."""
  config = dataclasses.asdict(images)
  for key in ('folder', 'features', 'token'):
    del config[key]
  parts = [VERSION, config, bool(images.features), names, stamps]
  return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _write(path: pathlib.Path, names: list[str], reader: Any) -> None:
  """Writes a store: images in the order of their names, by several threads."""
  partial = path.with_name(f'{path.name}.part')
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir()
  numbers: dict[str, int] = {}
  problems: dict[str, str] = {}
  # Pillow decodes and resizes outside of the interpreter's lock.
  threads = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
  with threads, (partial / CONTENTS).open('wb') as out:
    for start in range(0, len(names), _AT_ONCE):
      some = names[start : start + _AT_ONCE]
      for name, array in zip(some, threads.map(reader, some), strict=True):
        if isinstance(array, str):
          problems[name] = array
        else:
          numbers[name] = len(numbers)
          out.write(np.ascontiguousarray(array, reader.dtype).tobytes())
    out.flush()
    os.fsync(out.fileno())
  meta = {
    'shape': [len(numbers), *reader.shape],
    'dtype': reader.dtype.str,
    'numbers': numbers,
    'problems': problems,
  }
  files.atomic_write_json(partial / META, meta)
  partial.rename(path)
  files.sync_folder(path.parent)


def _opened(path: pathlib.Path, digest: str) -> Store:
  """A finished store."""
  file = path / CONTENTS
  try:
    meta = json.loads((path / META).read_text())
    shape, dtype = tuple(meta['shape']), np.dtype(meta['dtype'])
    if file.stat().st_size != int(np.prod(shape)) * dtype.itemsize:
      raise ValueError(f'{CONTENTS} has another size than was written')
    # A file of no bytes cannot be mapped.
    array_M = (
      np.memmap(file, dtype, 'r', shape=shape)
      if shape[0]
      else np.zeros(shape, dtype)
    )
    return Store(digest, meta['numbers'], meta['problems'], array_M)
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise errors.InputError(
      f'the images in {path} are damaged: {e}; delete the folder and run '
      'again, and it is made anew'
    ) from None
