"""Writes the cache of a text; resumable, and whole or absent.

Stages:
  1. Name the folder of the cache by a hash of everything the rows depend on. If
     a folder of that name exists, it is a finished cache and nothing is
     written.
  2. Lock a file beside the folder. A second process waits for the lock and then
     finds the cache finished.
  3. Write the rows to `<name>.part`. Each shard is written, synced to the disk
     and then entered in `progress.json`, together with the position in the text
     after it and the counts up to it. A shard that is not entered, or whose
     bytes have changed, is written again, so a killed process loses one shard
     at most, and the result is the same to the byte.
  4. Write `meta.json`, and rename the folder to its final name.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from moejax.core import files
from moejax.data import (
  cache,
  cache_state,
  encoding,
  estimate,
  features,
  long_text,
  seqio_bridge,
)
from moejax.data import request as request_lib
from moejax.data import sums as sums_lib
from moejax.data import vocab as vocabs
from moejax.data.request import Progress, Request

Text = str | long_text.LongText
VERSION = 2  # of packing and layout on disk; part of the hash in folders' names
PROGRESS = cache_state.PROGRESS


class TextSource:
  """A source of documents, whose rows are packed before training reads them.

  Attributes:
    name: name of the text, part of the names of its caches.
    label: its name in lines for the user; '' means `name`.
    has_text: True; False for generated rows (`synthetic`).
    no_sample: why there is no estimate of the work.
    rearrange: makes of a vocabulary one that rearranges (`fill_in_middle`).
  """

  name: str
  label: str = ''
  has_text = True
  no_sample = 'the source does not say how many documents it has'
  rearrange: Callable[[Any], Any] | None = None
  masked = False  # whether some of its targets have no loss
  compares_shards = False  # whether it has `shard_keys`

  def identity(self, split: str, sums: sums_lib.Sums) -> dict[str, Any]:
    """Everything that the documents of a split depend on, as JSON values."""
    raise NotImplementedError

  def former_identity(
    self, split: str, sums: sums_lib.Sums
  ) -> dict[str, Any] | None:
    """`identity` as an earlier version computed it; None if it is the same."""
    del split, sums
    return None

  def documents(
    self,
    split: str,
    vocab: vocabs.Vocab,
    *,
    skip: int,
    note: Callable[[str], None],
  ) -> Generator[seqio_bridge.Document]:
    """The documents as token ids from number `skip` on, in a fixed order.

    `note` is called with lines for the user about documents left out.
    """
    raise NotImplementedError

  def texts(
    self, split: str, note: Callable[[str], None] = lambda _: None
  ) -> Iterator[Text] | None:
    """The documents as text; None for texts too large to read as a whole."""
    del split, note
    return None

  def stream(
    self, split: str, note: Callable[[str], None] = lambda _: None
  ) -> Iterator[Text] | None:
    """The documents as text, one by one, which several processes encode.

    None for a source whose text is encoded where it is read, by `documents`.
    """
    return self.texts(split, note)

  def sample(self, split: str) -> estimate.Sample | None:
    """Some of the documents; None where that takes long."""
    del split
    return None

  def removed(self, split: str) -> tuple[Any, ...]:
    """What steps removed, in the last pass over a split: `base.Removed`."""
    del split
    return ()

  def shards(self, split: str) -> Sequence[Any] | None:
    """Parts of the text that are read each by itself, for `beam_cache`.

    None if whether a document is kept depends on documents of other parts.
    """
    del split
    return None

  def shard_texts(self, split: str, shard: Any) -> Generator[Text, None, Any]:
    """The documents of a shard; returns a report on those left out."""
    raise NotImplementedError

  def shard_notes(self, split: str, reports: Sequence[Any]) -> list[str]:
    """The notes of `stream`, from the reports of all shards in order.

    Raises:
      InputError: as `stream` does for bad documents.
    """
    del split, reports
    return []

  def rows(self, split: str, request: Request) -> cache.RowCache:
    """The packed rows of a split; packs them if no cache exists."""
    return make(self, split, self.encoded(split, request))

  def encoded(self, split: str, request: Request) -> Request:
    """The request with the vocabulary that encodes the split."""
    if self.rearrange is None or split != 'train':
      return request
    return dataclasses.replace(request, vocab=self.rearrange(request.vocab))


def make(text: TextSource, split: str, request: Request) -> cache.RowCache:
  """The cache of a split of a text; writes it if it does not exist.

  Raises:
    InputError: the text is bad, the folder cannot be written, the disk is
      full, or an id is outside the vocabulary. Finished shards are kept.
  """
  spec, path = spec_and_path(text, split, request)
  made_before = path.exists()
  if not made_before:
    try:
      request.folder.mkdir(parents=True, exist_ok=True)
      lock = path.with_name(f'.{path.name}.lock')
      with request_lib.locked(lock, path.name, request.report):
        if not path.exists():  # or another process has just made it
          _Writer(text, split, request, spec, path).run()
    except OSError as e:
      raise cache.unwritable(e, request.folder) from e
  rows = cache.RowCache(path, request.vocab.first_id)
  name = f'{text.label or text.name} {split}'
  if made_before:  # documents that were left out then are not in the rows now
    for note in rows.meta.notes:
      request.report(Progress(name, note=note))
  counts = rows.meta.num_documents, rows.num_tokens
  request.report(Progress(name, *counts, done=True, num_bytes=rows.num_bytes))
  return rows


def _spec(
  text: TextSource, split: str, request: Request, identity: dict[str, Any]
) -> dict[str, Any]:
  """Everything that the rows depend on."""
  return {
    'version': VERSION,
    'text': text.name,
    'split': split,
    'from': identity,
    'vocab': request.vocab.fingerprint(),
    'length': request.length,
    'max_documents': request.max_documents,
    'rows_per_shard': request.rows_per_shard,
    **request.packing.identity(),
    **({'masked': True} if request.masked else {}),
  }


def _name(spec: dict[str, Any]) -> str:
  """The name of a cache's folder."""
  digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode())
  return f'{spec["text"]}-{spec["split"]}-{digest.hexdigest()[:16]}'


def spec_and_path(
  text: TextSource, split: str, request: Request
) -> tuple[dict[str, Any], pathlib.Path]:
  """Everything that the rows of a split depend on, and the cache's folder.

  A cache that an earlier version wrote keeps its name, so that a run that was
  begun with it goes on.
  """
  identity = text.former_identity(split, request.sums)
  if identity is not None:
    spec = _spec(text, split, request, identity)
    path = request.folder / _name(spec)
    if path.exists():
      return spec, path
  spec = _spec(text, split, request, text.identity(split, request.sums))
  return spec, request.folder / _name(spec)


def is_made(text: TextSource, split: str, request: Request) -> bool:
  """Whether a split has a cache; reads no text if the folder has none."""
  some = any(request.folder.glob(f'{text.name}-{split}-*'))
  return some and spec_and_path(text, split, request)[1].exists()


class _Writer:
  """Writes one cache: stages 3 and 4 of the module docstring."""

  def __init__(
    self,
    text: TextSource,
    split: str,
    request: Request,
    spec: dict[str, Any],
    path: pathlib.Path,
  ):
    self.text, self.split, self.request = text, split, request
    self.spec, self.path = spec, path
    self.partial = path.with_name(path.name + '.part')
    self.name = f'{text.label or text.name} {split}'
    self.notes: list[str] = []
    self.is_silent = False  # while a damaged shard is written again
    self.state, self.damaged = cache_state.read(self.partial)
    if not self.state.shards:
      shutil.rmtree(self.partial, ignore_errors=True)

  def run(self) -> None:
    """Writes the shards that are missing, and finishes the cache."""
    self.partial.mkdir(exist_ok=True)
    request = self.request
    request.report(self._first_progress())
    self._mend()
    state, blocks = self.state, self._blocks()
    while (first := next(blocks, None)) is not None:
      more = itertools.islice(blocks, request.blocks_per_shard() - 1)
      shard, position = self._shard(itertools.chain([first], more))
      state.documents, state.offset, state.rows, state.cut = position
      state.add(dataclasses.asdict(shard))
      cache_state.write(self.partial, state)
    files.atomic_write_text(self.partial / cache.META, self._meta().to_json())
    (self.partial / PROGRESS).unlink(missing_ok=True)
    files.sync_folder(self.partial)
    self.partial.rename(self.path)
    files.sync_folder(self.path.parent)

  def _mend(self) -> None:
    """Writes the damaged shards again, each from its own place in the text."""
    for number in self.damaged:
      kept, self.state = self.state, self.state.before(number)
      self.is_silent = True
      blocks = self._blocks()
      shard, _ = self._shard(
        itertools.islice(blocks, self.request.blocks_per_shard())
      )
      del blocks  # closes the text, which may note something
      self.state, self.is_silent = kept, False
      if dataclasses.asdict(shard) != kept.shards[number]:
        # The finished shards do not belong together.
        self.state = cache_state.State()
        shutil.rmtree(self.partial)
        self.partial.mkdir()
        return

  def _blocks(self) -> Iterator[tuple[features.Rows, features.Position]]:
    """Packed rows from the state's position on."""
    state, request = self.state, self.request
    start = state.documents, state.offset, state.rows, state.cut
    return request.packing.pack(
      self._ids(),
      request.length,
      rows_per_block=request.rows_per_block(),
      start=features.Position(*start),
    )

  def _first_progress(self) -> Progress:
    """The progress with the work ahead, or with why it is not known."""
    sample, unknown = self.text.sample(self.split), ''
    expected = sample and estimate.expected(
      sample, self.request, self.state.num_bytes
    )
    if sample is None or sample.num_documents is None:
      unknown = '' if expected else self.text.no_sample
    return dataclasses.replace(
      self._progress(), expected=expected, unknown=unknown
    )

  def _progress(self) -> Progress:
    counts = self.state.num_documents, self.state.num_tokens
    return Progress(self.name, *counts, num_bytes=self.state.num_bytes)

  def _documents(self) -> Generator[seqio_bridge.Document]:
    """The documents from the state's position to the limit, as token ids."""
    request, skip = self.request, self.state.documents
    limit = request.max_documents or None
    if (texts := self.text.stream(self.split, self._note)) is not None:
      # Not a document beyond the limit is read, so that the notes do not depend
      # on how far processes read ahead.
      some = itertools.islice(texts, skip, limit and max(skip, limit))
      documents = encoding.documents(some, request.vocab, request.processes)
    else:
      documents = self.text.documents(
        self.split, request.vocab, skip=skip, note=self._note
      )
    # Closing reports the documents left out, even if the limit ends the loop.
    with contextlib.closing(documents):
      left = limit and max(0, limit - skip)
      yield from itertools.islice(documents, left)

  def _ids(self) -> Iterator[np.ndarray | Iterator[np.ndarray]]:
    """The ids of the documents; reading one adds to the counts of the state."""
    state = self.state
    # Documents that were read before an interruption are counted already.
    counted = max(state.num_read, state.documents + (state.offset > 0))
    with contextlib.closing(self._documents()) as documents:
      for number, (ids_T, num_bytes) in enumerate(documents, state.documents):
        state.num_read = max(state.num_read, number + 1)
        if isinstance(ids_T, np.ndarray) and len(ids_T) <= 1:
          yield ids_T[:0]  # left out; a resumed writer still counts it
        else:
          if number >= counted:
            state.num_documents += 1
            state.num_bytes += num_bytes
          yield (
            self._checked(ids_T)
            if isinstance(ids_T, np.ndarray)
            else map(self._checked, ids_T)
          )

  def _checked(self, ids_T: np.ndarray) -> np.ndarray:
    plain_T = features.ids(ids_T) if self.request.masked else ids_T
    encoding.checked(plain_T, self.request.vocab, self.name)
    return ids_T

  def _note(self, note: str) -> None:
    if not self.is_silent:
      self.notes.append(note)
      self.request.report(Progress(self.name, note=note))

  def _shard(
    self, blocks: Iterable[tuple[features.Rows, features.Position]]
  ) -> tuple[cache.Shard, features.Position]:
    """Writes one shard; returns it with the position after it."""
    request, state = self.request, self.state
    dtype = request.row_dtype()
    file = f'{len(state.shards):05d}.rows'
    digest, num_rows, after = hashlib.sha256(), 0, features.Position()
    with (self.partial / file).open('wb') as out:
      for rows, after in blocks:  # noqa: B007 (the last one is wanted)
        data = features.records(rows, dtype)
        digest.update(data)
        out.write(data)
        num_rows += len(rows.target_NL)
        state.num_tokens += int((rows.segment_NL != 0).sum())
        request.report(self._progress())
      out.flush()
      os.fsync(out.fileno())
    size = num_rows * dtype.itemsize
    return cache.Shard(file, num_rows, size, digest.hexdigest()), after

  def _meta(self) -> cache.Meta:
    state, request = self.state, self.request
    return cache.Meta(
      spec=self.spec,
      vocab_size=request.vocab.size,
      length=request.length,
      rows_per_shard=request.rows_per_block() * request.blocks_per_shard(),
      num_rows=sum(shard['rows'] for shard in state.shards),
      num_tokens=state.num_tokens,
      num_documents=state.num_documents,
      num_bytes=state.num_bytes,
      num_cut=state.cut,
      removed=self.text.removed(self.split),
      notes=tuple(self.notes),
      shards=tuple(cache.Shard(**shard) for shard in state.shards),
    )
