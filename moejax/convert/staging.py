"""Buffers in files, so that an interrupted import can be resumed.

  WORKDIR/importing/
    journal.jsonl                       the import, then the tensors in place
    moe.ffn.router.w_DE_0-2_0-64_0-8    a region of a weight, as in memory

Lines of the journal:

  {"folder": "/hf/olmoe", "files": {...}, "tensors": ...}    the first line
  ["model.embed_tokens.weight", "lm_head.weight"]            tensors in place

A tensor is in place when all of its numbers are in the files, which are mapped
into memory. Every 256 MB or so the maps are flushed to the disk, and only then
are the tensors entered in the journal. So a tensor in the journal is in place,
however the process ended. All other tensors are read once more, over whatever a
file holds in their place.
"""

import hashlib
import json
import math
import os
import pathlib
import shutil
from typing import Any, BinaryIO

import numpy as np

from moejax.convert import buffers, folder
from moejax.convert.load import ImportPlan
from moejax.core import errors, files

NAME, JOURNAL = 'importing', 'journal.jsonl'
EVERY = 256_000_000  # bytes of tensors


def source(plan: ImportPlan) -> dict[str, Any]:
  """A description that identifies an import, as JSON values.

  It has the folder, the sizes and times of its files, a checksum of
  config.json, and a checksum of the mapping from tensors to weights, which may
  differ between versions of moejax.
  """
  stats = {
    entry.file.name: entry.file.stat() for entry in plan.folder.tensors.values()
  }
  text = (plan.folder.path / folder.CONFIG).read_bytes()
  return {
    'folder': str(plan.folder.path.resolve()),
    'files': {
      name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()
    },
    'config': hashlib.sha256(text).hexdigest(),
    'tensors': hashlib.sha256(repr(plan.tensors).encode()).hexdigest(),
  }


class Staging:
  """The buffers (`buffers.Buffers`) of one import; they outlive its process.

  Attributes:
    digest: checksum of the description of the import.
  """

  def __init__(self, place: pathlib.Path, description: dict[str, Any]):
    """Begins an import, or resumes the one that an earlier process began.

    Args:
      place: folder of the files.
      description: the `source` of the import.

    Raises:
      InputError: the folder holds the beginning of another import.
    """
    self._place, self._journal = place, place / JOURNAL
    # Maps that may not be flushed, each with the path of its weight.
    self._maps: list[tuple[str, np.memmap]] = []
    # Tensors in place that are not entered in the journal.
    self._new: list[str] = []
    self._new_bytes = 0
    text = json.dumps(description)
    self.digest = hashlib.sha256(text.encode()).hexdigest()
    description = json.loads(text)  # with lists for tuples, as `_read` gives it
    lines = [description]
    if self._journal.exists():
      lines = self._read(description)
    elif place.exists():
      shutil.rmtree(place)  # without a journal no tensor is in place
    place.mkdir(exist_ok=True)
    # A killed process may have left half a line at the end. The whole lines are
    # written anew, so that no line follows it.
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    files.atomic_write_text(self._journal, text)
    self._entered = {name for names in lines[1:] for name in names}

  def _read(self, description: dict[str, Any]) -> list[Any]:
    """The complete lines of the journal.

    Raises:
      InputError: they are of another import.
    """
    text = self._journal.read_text(encoding='utf-8')
    lines = [json.loads(line) for line in text.split('\n')[:-1]]
    if lines[0] != description:
      raise errors.InputError(
        f'{self._place} has the beginning of an import of '
        f'{lines[0]["folder"]} as it was then, not of '
        f'{description["folder"]} as it is now: remove {self._place} to begin '
        'again, or use another --workdir'
      )
    return lines

  @property
  def num_bytes(self) -> int:
    """Bytes that the files take on the disk."""
    return sum(file.stat().st_blocks * 512 for file in self._place.iterdir())

  def empty(
    self, path: str, region: buffers.Region, dtype: np.dtype
  ) -> np.ndarray:
    shape = buffers.shape_of(region)
    size = math.prod(shape) * dtype.itemsize
    if not size:
      return np.zeros(shape, dtype)
    parts = [path.replace('/', '.'), *(f'{a}-{b}' for a, b in region)]
    with open(self._place / '_'.join(parts), 'a+b') as f:
      _make_room(f, size)
    buffer = np.memmap(f.name, dtype, 'r+', shape=shape)
    self._maps.append((path, buffer))
    return buffer.view(np.ndarray)

  def has(self, name: str) -> bool:
    return name in self._entered

  def placed(self, name: str, num_bytes: int) -> None:
    self._new.append(name)
    self._new_bytes += num_bytes
    if self._new_bytes >= EVERY:
      self.flush()

  def flush(self) -> None:
    """Flushes the maps and enters the tensors in place in the journal."""
    if not self._new:
      return
    for _, buffer in self._maps:
      buffer.flush()
    files.sync_folder(self._place)  # for the names of new files
    with open(self._journal, 'a', encoding='utf-8') as f:
      f.write(json.dumps(self._new) + '\n')
      f.flush()
      os.fsync(f.fileno())
    self._entered |= set(self._new)
    self._new, self._new_bytes = [], 0
    # Weights are read one after the other, so only the last one is written to
    # again.
    last = self._maps[-1][0]
    self._maps = [pair for pair in self._maps if pair[0] == last]

  def remove(self) -> None:
    """Removes the folder, the journal last.

    As long as any file is left, the journal says which import it belongs to.
    """
    for file in self._place.iterdir():
      if file != self._journal:
        file.unlink()
    shutil.rmtree(self._place)


def _make_room(file: BinaryIO, size: int) -> None:
  """Extends a file to its size with zeros; its content stays."""
  if hasattr(os, 'posix_fallocate'):
    # Allocates the blocks now. A full disk is then an OSError here; in a sparse
    # file it would be a SIGBUS at some later write.
    os.posix_fallocate(file.fileno(), 0, size)
  else:  # on macOS
    file.truncate(size)
