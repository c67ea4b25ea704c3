"""Weights put together in files, so that a stopped import can go on.

  WORKDIR/importing/
    journal.jsonl                       the import, then the tensors in place
    moe.ffn.router.w_DE_0-2_0-64_0-8    a region of a weight, as in memory

  {"folder": "/hf/olmoe", "files": {...}, "tensors": ...}    the first line
  ["model.embed_tokens.weight", "lm_head.weight"]            tensors in place

The files are mapped into memory. Every 256 MB or so they are flushed to the
disk, and only then the tensors are entered in the journal. So a tensor in the
journal is in place, however the process ended; all others are read once more
and overwrite what is there.
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
  """A description by which one import is told from another.

  The files by size and time, config.json, and where each tensor goes, which
  another version of moejax may see otherwise.
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
  """The buffers of one import, which outlive a killed process.

  Attributes:
    digest: checksum of the description of the import.
  """

  def __init__(self, place: pathlib.Path, description: dict[str, Any]):
    """Begins an import, or goes on where an earlier process stopped.

    Args:
      place: folder of the files.
      description: the `source` of the import.

    Raises:
      InputError: the folder holds the beginning of another import.
    """
    self._place, self._journal = place, place / JOURNAL
    self._maps: list[tuple[str, np.memmap]] = []  # not flushed, of which weight
    self._new: list[str] = []  # in place, not entered
    self._new_bytes = 0
    text = json.dumps(description)
    self.digest = hashlib.sha256(text.encode()).hexdigest()
    description = json.loads(text)  # as it is read back: tuples are lists
    lines = [description]
    if self._journal.exists():
      lines = self._read(description)
    elif place.exists():
      shutil.rmtree(place)  # without a journal nothing is in place
    place.mkdir(exist_ok=True)
    # A torn line must stay the last one, so whole lines are written anew.
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    files.atomic_write_text(self._journal, text)
    self._entered = {name for names in lines[1:] for name in names}

  def _read(self, description: dict[str, Any]) -> list[Any]:
    """The journal's whole lines."""
    text = self._journal.read_text(encoding='utf-8')
    lines = [json.loads(line) for line in text.split('\n')[:-1]]
    if lines[0] != description:
      raise errors.InputError(
        f'{self._place} has the beginning of an import of '
        f'{lines[0]["folder"]} as it was then, not of '
        f'{description["folder"]} as it is now: remove it to begin again, or '
        'use another --workdir'
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
    """Enters all tensors that are in place."""
    if not self._new:
      return
    for _, buffer in self._maps:
      buffer.flush()
    files.sync_folder(self._place)  # the names of new ones
    with open(self._journal, 'a', encoding='utf-8') as f:
      f.write(json.dumps(self._new) + '\n')
      f.flush()
      os.fsync(f.fileno())
    self._entered |= set(self._new)
    self._new, self._new_bytes = [], 0
    # No other weight than the last is written to again.
    last = self._maps[-1][0]
    self._maps = [pair for pair in self._maps if pair[0] == last]

  def remove(self) -> None:
    """Removes the folder; the journal last, so that it says what it was."""
    for file in self._place.iterdir():
      if file != self._journal:
        file.unlink()
    shutil.rmtree(self._place)


def _make_room(file: BinaryIO, size: int) -> None:
  """Extends a file to its size with zeros; its content stays."""
  if hasattr(os, 'posix_fallocate'):
    # All of it now: a full disk is an error here, and later a SIGBUS.
    os.posix_fallocate(file.fileno(), 0, size)
  else:  # on macOS
    file.truncate(size)
