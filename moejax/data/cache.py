"""Packed rows on disk: what training reads.

A cache is a folder with `meta.json` and shards. A shard is a flat binary file
of equal records, one packed row each (`features.row_dtype`), so row n lies at a
known byte of a known file: reading is a memory map and an index. Formats made
for records of any size (ArrayRecord, TFRecord) would add an index, a decoder
and a dependency, and take away nothing: rows here all have one size.

Reading needs numpy alone. `cache_writer` makes caches.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any, Protocol

import numpy as np

from moejax.core import errors
from moejax.data import features

META = 'meta.json'


class RowReader(Protocol):
  """N rows that can be read in any order, and what they stand for.

  Attributes:
    num_rows: N.
    length: L.
    num_tokens: targets that are not padding.
    num_bytes: UTF-8 bytes of the text behind them; 0 if there is none.
  """

  num_rows: int
  length: int
  num_tokens: int
  num_bytes: int

  def rows(self, index_N: np.ndarray) -> features.Rows:
    """The rows at these indices, in their order."""


@dataclasses.dataclass(frozen=True)
class Shard:
  """One file of a cache."""

  file: str
  rows: int
  size: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class Meta:
  """What `meta.json` holds.

  Attributes:
    spec: what the cache was made from; its hash is in the folder's name.
    vocab_size: ids lie in [1, vocab_size).
    length: tokens in a row.
    rows_per_shard: in every shard but the last.
    num_rows: rows in all.
    num_tokens: targets that are not padding.
    num_documents: documents, without empty ones.
    num_bytes: UTF-8 bytes of their text.
    max_id: the largest id there is.
    notes: what the reader of the text had to say, such as bad lines left out.
    shards: the files.
  """

  spec: dict[str, Any]
  vocab_size: int
  length: int
  rows_per_shard: int
  num_rows: int
  num_tokens: int
  num_documents: int
  num_bytes: int
  max_id: int
  notes: tuple[str, ...]
  shards: tuple[Shard, ...]

  def to_json(self) -> str:
    return json.dumps(dataclasses.asdict(self), indent=1)

  @classmethod
  def from_json(cls, text: str) -> 'Meta':
    tree = json.loads(text)
    tree['shards'] = tuple(Shard(**shard) for shard in tree['shards'])
    tree['notes'] = tuple(tree['notes'])
    return cls(**tree)


class Cache:
  """A finished cache, opened for reading; safe to share between threads.

  Raises:
    InputError: a file is missing or has the wrong size.
  """

  def __init__(self, path: pathlib.Path):
    self.path = path
    try:
      self.meta = Meta.from_json((path / META).read_text())
    except (OSError, ValueError, TypeError, KeyError) as e:
      raise self._damaged(META, f'cannot be read ({e})') from None
    for shard in self.meta.shards:
      try:
        size = (path / shard.file).stat().st_size
      except OSError as e:
        raise self._damaged(shard.file, e.strerror) from None
      if size != shard.size:
        raise self._damaged(
          shard.file, f'has {size} bytes where {shard.size} were written'
        )
    self.num_rows = self.meta.num_rows
    self.num_tokens = self.meta.num_tokens
    self.num_bytes = self.meta.num_bytes
    self.length = self.meta.length
    self._dtype = features.row_dtype(self.length, self.meta.vocab_size)
    self._records = functools.lru_cache(maxsize=4096)(self._map)

  def _damaged(self, file: str, problem: str) -> errors.InputError:
    return errors.InputError(
      f'cache {self.path} is damaged: {file} {problem}; delete the folder and '
      'run again, and it is made anew'
    )

  def rows(self, index_N: np.ndarray) -> features.Rows:
    """The rows at these indices, in their order.

    Returns:
      target_NL and segment_NL, as unsigned integers.
    """
    index_N = np.asarray(index_N)
    record_N = np.zeros(len(index_N), self._dtype)
    shard_N, inside_N = np.divmod(index_N, self.meta.rows_per_shard)
    for shard in np.unique(shard_N):
      here_N = shard_N == shard
      record_N[here_N] = self._records(int(shard))[inside_N[here_N]]
    return features.Rows(record_N['target'], record_N['segment'])

  def _map(self, shard: int) -> np.ndarray:
    """A shard as a memory map; nothing is read before it is indexed."""
    path = self.path / self.meta.shards[shard].file
    return np.memmap(path, self._dtype, mode='r')

  def verify(self) -> None:
    """Reads everything and compares checksums.

    Raises:
      InputError: the first shard that is not what was written.
    """
    for shard in self.meta.shards:
      if sha256(self.path / shard.file) != shard.sha256:
        raise self._damaged(shard.file, 'has another checksum than was written')


def sha256(path: pathlib.Path) -> str:
  """The checksum of a file of any size."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
