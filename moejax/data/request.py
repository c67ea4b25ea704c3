"""How texts are to be packed, and the reports of a text that is packed."""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator

import numpy as np

from moejax.core import locks
from moejax.data import features, packings
from moejax.data import sums as sums_lib
from moejax.data import vocab as vocabs

_TOKENS_PER_BLOCK = 2**20
_BYTES_PER_SHARD = 2**27


@dataclasses.dataclass(frozen=True)
class Expected:
  """The work that packing a text will be, estimated from a sample of it.

  Attributes:
    num_bytes: UTF-8 bytes of the text.
    num_tokens: tokens, which are the targets of the rows.
    row_bytes: bytes of the rows on disk.
    seconds: time to pack the text with `processes`.
    processes: number of processes that encode.
    proviso: what the estimate depends on, as the end of a sentence; or ''.
  """

  num_bytes: int
  num_tokens: int
  row_bytes: int
  seconds: float
  processes: int
  proviso: str = ''


@dataclasses.dataclass(frozen=True)
class Progress:
  """Progress of writing one cache.

  Attributes:
    name: the text and its split.
    num_documents: documents read so far.
    num_tokens: tokens written so far.
    note: a line for the user, or ''; with a note the counts mean nothing.
    done: whether the cache is finished.
    num_bytes: UTF-8 bytes of the documents read so far.
    expected: with the first report of a cache, the work ahead; None if it is
      not known.
    unknown: why it is not.
  """

  name: str
  num_documents: int = 0
  num_tokens: int = 0
  note: str = ''
  done: bool = False
  num_bytes: int = 0
  expected: Expected | None = None
  unknown: str = ''


@dataclasses.dataclass(frozen=True)
class Request:
  """How texts are to be packed, and where the rows are kept.

  Attributes:
    vocab: the tokenizer.
    length: tokens in a row.
    folder: the folder of all caches.
    max_documents: limit on the documents of each split; 0 means no limit.
    report: called with a Progress about once a second of work.
    rows_per_shard: 0 means as many as 128 MB hold.
    packing: an entry of `packings.PACKINGS`.
    processes: processes that encode text; 0 means one for each core. The rows
      do not depend on it.
  """

  vocab: vocabs.Vocab
  length: int
  folder: pathlib.Path
  max_documents: int = 0
  report: Callable[[Progress], None] = lambda _: None
  rows_per_shard: int = 0
  packing: packings.Packing = packings.Sequential()
  processes: int = 0

  @functools.cached_property
  def sums(self) -> sums_lib.Sums:
    """Checksums of text files; one record for all texts of the request."""
    return sums_lib.Sums(
      self.folder, lambda note: self.report(Progress('text', note=note))
    )

  @property
  def masked(self) -> bool:
    """Whether some targets have no loss, as in conversations."""
    return getattr(self.vocab, 'masked', False)

  def row_dtype(self) -> np.dtype:
    """The record of one row on disk."""
    return features.row_dtype(self.length, self.vocab.size, masked=self.masked)

  def rows_per_block(self) -> int:
    """Rows that are packed and written at a time."""
    rows = max(1, _TOKENS_PER_BLOCK // self.length)
    return min(rows, self.rows_per_shard or rows)

  def blocks_per_shard(self) -> int:
    """Blocks of every shard but the last."""
    block = self.rows_per_block()
    if self.rows_per_shard:
      return self.rows_per_shard // block
    row = self.row_dtype().itemsize
    return max(1, _BYTES_PER_SHARD // (row * block))


@contextlib.contextmanager
def locked(
  path: pathlib.Path, name: str, report: Callable[[Progress], None]
) -> Iterator[None]:
  """Waits for a lock, and holds it until the block ends."""
  with path.open('w') as file:
    try:
      reported = False
      while not locks.take(file):
        if not reported:
          report(Progress(name, note='waiting for another process to make it'))
          reported = True
        time.sleep(0.2)
    except locks.NoLocksError as e:
      note = (
        f'the file system of {path.parent} has no locks ({e}): let no second '
        'process pack the same text before this one is done'
      )
      report(Progress('text', note=note))
    yield
