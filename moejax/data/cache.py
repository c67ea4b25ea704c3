"""Packed rows on disk, memory-mapped for training.

A cache is a folder with `meta.json` and shards. A shard is a flat binary file
of records of equal size, one packed row each (`features.row_dtype`). The
position of row n is therefore known without an index, and reading it needs
numpy alone. Formats for records of any size (ArrayRecord, TFRecord) would add
an index, a decoder and a dependency without any gain. `cache_writer` makes
caches.

Opening a cache of up to 256 MB compares the checksums of `meta.json` and of all
shards (0.17 s for 256 MB in memory). Opening a larger one compares the checksum
of `meta.json` and the sizes of the shards only, so that terabytes are not read
before the first step; `moejax cache` compares all checksums.

`prune` needs to know which caches are in use: an open cache holds a shared
lock, and the modification time of its `meta.json` is when it was last opened.
"""

import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import os
import pathlib
import weakref
from typing import Any, Protocol

import numpy as np

from moejax.core import errors, files, locks
from moejax.data import features
from moejax.data.steps import base

META = 'meta.json'
_VERIFIED_WHEN_OPENED = 2**28  # bytes


class RowReader(Protocol):
  """N packed rows that can be read in any order.

  Attributes:
    num_rows: N.
    length: L.
    num_tokens: targets that are not padding.
    num_bytes: UTF-8 bytes of the packed text; 0 for rows without text.
    fingerprint: identifies what the rows were made from.
    contents: a checksum of the rows, whatever they were made from.
    first_id: the id that the model reads at the start of every segment.
  """

  num_rows: int
  length: int
  num_tokens: int
  num_bytes: int
  fingerprint: str
  contents: str
  first_id: int

  def rows(self, index_N: np.ndarray) -> features.Rows:
    """The rows at these indices, in their order."""


@dataclasses.dataclass(frozen=True)
class Shard:
  """One file of a cache.

  Attributes:
    file: its name in the folder.
    rows: number of rows.
    size: bytes.
    sha256: checksum of the bytes, as hexadecimal text.
  """

  file: str
  rows: int
  size: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class Meta:
  """The content of `meta.json`.

  Attributes:
    spec: everything the rows depend on; its hash is in the folder's name.
    vocab_size: size of the vocabulary, larger than all ids.
    length: tokens in a row.
    rows_per_shard: rows of every shard but the last.
    num_rows: rows of all shards.
    num_tokens: targets that are not padding.
    num_documents: documents that are not empty.
    num_bytes: UTF-8 bytes of their text.
    notes: lines for the user about the text, such as bad lines left out.
    shards: the files, in order.
    num_cut: documents that are in more than one row; None in caches of
      versions that did not count them.
    removed: what each of `data.steps` removed, in their order.
  """

  spec: dict[str, Any]
  vocab_size: int
  length: int
  rows_per_shard: int
  num_rows: int
  num_tokens: int
  num_documents: int
  num_bytes: int
  notes: tuple[str, ...]
  shards: tuple[Shard, ...]
  num_cut: int | None = None
  removed: tuple[base.Removed, ...] = ()

  @property
  def masked(self) -> bool:
    """Whether some targets have no loss (`features.Rows`)."""
    return bool(self.spec.get('masked', False))

  @property
  def share_of_text(self) -> float:
    """The share of the rows' tokens that are text, not padding."""
    return self.num_tokens / max(1, self.num_rows * self.length)

  def to_json(self) -> str:
    """The text of `meta.json`, with a checksum of itself."""
    tree = dataclasses.asdict(self)
    return json.dumps({**tree, 'sha256': _digest(tree)}, indent=1)

  def contents(self) -> str:
    """A checksum of the rows alone, whatever they were made from."""
    sums = [(shard.rows, shard.sha256) for shard in self.shards]
    return _digest({'length': self.length, 'shards': sums})

  @classmethod
  def from_json(cls, text: str) -> 'Meta':
    """The inverse of `to_json`.

    Raises:
      ValueError: the text differs from its checksum, or is not JSON.
      KeyError, TypeError, AttributeError: the text is JSON of another form.
    """
    tree = json.loads(text)
    if tree.pop('sha256') != _digest(tree):
      raise ValueError('its checksum differs from the one that was written')
    tree['shards'] = tuple(Shard(**shard) for shard in tree['shards'])
    tree['notes'] = tuple(tree['notes'])
    removed = tree.get('removed', ())
    tree['removed'] = tuple(base.Removed(**step) for step in removed)
    return cls(**tree)


class RowCache:
  """A finished cache, opened for reading; safe to share between threads.

  Args:
    path: its folder.
    first_id: see RowReader; it is not stored in the rows.

  Raises:
    InputError: a file is missing or has the wrong size; or, up to 256 MB, a
      byte is not what was written.
  """

  def __init__(self, path: pathlib.Path, first_id: int = 0):
    self.path = path
    self.first_id = first_id
    self._keep()
    try:
      self.meta = Meta.from_json((path / META).read_text())
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
      raise self._damaged(META, f'cannot be read ({e})') from None
    for shard in self.meta.shards:
      try:
        size = (path / shard.file).stat().st_size
      except OSError as e:
        raise self._damaged(shard.file, e.strerror or str(e)) from None
      if size != shard.size:
        raise self._damaged(
          shard.file, f'has {size} bytes where {shard.size} were written'
        )
    if sum(s.size for s in self.meta.shards) <= _VERIFIED_WHEN_OPENED:
      self.verify()
    self.fingerprint = path.name
    self.contents = self.meta.contents()
    self.num_rows = self.meta.num_rows
    self.num_tokens = self.meta.num_tokens
    self.num_bytes = self.meta.num_bytes
    self.length = self.meta.length
    self._dtype = features.row_dtype(
      self.length, self.meta.vocab_size, masked=self.meta.masked
    )
    # A bound method would keep the cache alive, and with it the lock.
    open_shard = functools.partial(_open_shard, path, self.meta, self._dtype)
    self._records = functools.lru_cache(maxsize=4096)(open_shard)

  def _keep(self) -> None:
    """Marks the folder as in use, where the file system allows it."""
    meta = self.path / META
    with contextlib.suppress(OSError):
      os.utime(meta)
    with contextlib.suppress(OSError, locks.NoLocksError):
      opened = os.open(meta, os.O_RDONLY)
      weakref.finalize(self, os.close, opened)
      locks.take(opened, shared=True)

  def _damaged(self, file: str, problem: str) -> errors.InputError:
    return errors.InputError(
      f'cache {self.path} is damaged: {file} {problem}; delete the folder and '
      'run again, and it is made anew'
    )

  def rows(self, index_N: np.ndarray) -> features.Rows:
    """The rows at these indices, in their order.

    Returns:
      target_NL and segment_NL, as integers.
    """
    index_N = np.asarray(index_N)
    record_N = np.zeros(len(index_N), self._dtype)
    shard_N, inside_N = np.divmod(index_N, self.meta.rows_per_shard)
    for shard in np.unique(shard_N):
      here_N = shard_N == shard
      record_N[here_N] = self._records(int(shard))[inside_N[here_N]]
    return features.Rows(record_N['target'], record_N['segment'])

  def verify(self) -> None:
    """Reads everything and compares checksums.

    Raises:
      InputError: a shard differs from what was written; names the first.
    """
    for shard in self.meta.shards:
      try:
        digest = files.sha256(self.path / shard.file)
      except OSError as e:
        raise self._damaged(shard.file, e.strerror or str(e)) from None
      if digest != shard.sha256:
        raise self._damaged(shard.file, 'has another checksum than was written')


def unwritable(e: OSError, folder: pathlib.Path) -> errors.InputError:
  """The error that a cache cannot be written, and what to do about it."""
  if e.errno in {errno.ENOSPC, errno.EDQUOT}:
    return errors.InputError(
      f'no space left in {folder}: make room, or set data.cache_dir, and run '
      'again; finished parts are kept'
    )
  return errors.InputError(
    f'data.cache_dir={str(folder)!r} cannot be written: {e.strerror or e}'
  )


def _open_shard(
  path: pathlib.Path, meta: Meta, dtype: np.dtype, shard: int
) -> np.ndarray:
  """A shard as a memory map; nothing is read before it is indexed."""
  return np.memmap(path / meta.shards[shard].file, dtype, mode='r')


def _digest(tree: dict[str, Any]) -> str:
  text = json.dumps(tree, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()
