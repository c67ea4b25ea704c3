"""Weights put together in files, so that an import that was stopped goes on.

  WORKDIR/importing/
    journal.jsonl                       what is imported, then what is there
    moe.ffn.router.w_DE_0-2_0-64_0-8    a region of a weight, as in memory

  {"folder": "/hf/olmoe", "files": {...}, "tensors": ...}    the first line
  ["model.embed_tokens.weight", "lm_head.weight"]            tensors in place

The files are mapped into memory. Every 256 MB or so what was written to them is
flushed to the disk, and only then the tensors are entered in the journal. So a
tensor that is entered is there, whatever has ended the process; others are read
again, over what there is of them.
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
from moejax.convert.load import Plan
from moejax.core import errors, files

NAME, JOURNAL = 'importing', 'journal.jsonl'
EVERY = 256_000_000  # bytes of tensors


def source(plan: Plan) -> dict[str, Any]:
  """What tells one import from another.

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
  """The buffers of one import, which are still there after a kill.

  Attributes:
    digest: of what is imported.
  """

  def __init__(self, place: pathlib.Path, what: dict[str, Any]):
    """Begins, or goes on where an earlier process was.

    Args:
      place: the folder of the files.
      what: the `source` of the import.

    Raises:
      InputError: what is there is of another import.
    """
    self._place, self._journal = place, place / JOURNAL
    self._maps: list[tuple[str, np.memmap]] = []  # not flushed, of which weight
    self._new: list[str] = []  # in place, not entered
    self._new_bytes = 0
    text = json.dumps(what)
    self.digest = hashlib.sha256(text.encode()).hexdigest()
    what = json.loads(text)  # as it is read back: tuples are lists
    lines = [what]
    if self._journal.exists():
      lines = self._read(what)
    elif place.exists():
      shutil.rmtree(place)  # a beginning of nothing
    place.mkdir(exist_ok=True)
    # What is torn must not have a line behind it.
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    files.atomic_write_text(self._journal, text)
    self._entered = {name for names in lines[1:] for name in names}

  def _read(self, what: dict[str, Any]) -> list[Any]:
    """The journal's whole lines."""
    text = self._journal.read_text(encoding='utf-8')
    lines = [json.loads(line) for line in text.split('\n')[:-1]]
    if lines[0] != what:
      raise errors.InputError(
        f'{self._place} has the beginning of an import of '
        f'{lines[0]["folder"]} as it was then, not of {what["folder"]} as it '
        'is now: remove it to begin again, or use another --workdir'
      )
    return lines

  @property
  def num_bytes(self) -> int:
    """That the files take on the disk."""
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
    found = np.memmap(f.name, dtype, 'r+', shape=shape)
    self._maps.append((path, found))
    return found.view(np.ndarray)

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
    for _, found in self._maps:
      found.flush()
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
  """Gives a file its size, in zeros; what is there stays."""
  if hasattr(os, 'posix_fallocate'):
    # All of it now: a full disk is an error here, and later a SIGBUS.
    os.posix_fallocate(file.fileno(), 0, size)
  else:  # on macOS
    file.truncate(size)
