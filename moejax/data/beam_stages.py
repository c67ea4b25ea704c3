"""The stages of `beam_cache`: functions that Beam's workers call.

They have no state and import Beam where they use it, so that they are sent to
workers by name.
"""

import hashlib
import pickle
import secrets
from collections.abc import Generator, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from moejax.core import errors
from moejax.data import cache, encoding, features
from moejax.data import vocab as vocabs


class Layout(NamedTuple):
  """How the tokens of a text are laid out in files.

  Attributes:
    name: the text and its split, for errors.
    vocab: the tokenizer.
    length: L, tokens in a row.
    rows_per_block: rows that are packed at a time.
    rows_per_shard: rows of every file but the last.
  """

  name: str
  vocab: vocabs.Vocab
  length: int
  rows_per_block: int
  rows_per_shard: int


class Counted(NamedTuple):
  """A source shard that was read; `report` is that of `shard_texts`."""

  shard: int
  num_tokens: int
  num_documents: int
  num_bytes: int
  report: Any


class Piece(NamedTuple):
  """Consecutive tokens of one document.

  Attributes:
    place: of the first token, among those of the source shard.
    begins: whether the document begins here.
    start: place of the first token of the document.
    ends: whether the document ends here.
    data: the tokens, as little-endian int32.
  """

  place: int
  begins: bool
  start: int
  ends: bool
  data: bytes


def keys(
  item: tuple[int, Any], text: Any, split: str
) -> Iterator[tuple[bytes, tuple[int, int]]]:
  """The keys of the documents of a source shard, each with its place.

  A text keeps the first document with each key.
  """
  shard, source = item
  try:
    for number, key in enumerate(text.shard_keys(split, source)):
      yield key, (shard, number)
  except errors.InputError:
    return  # `encode` meets it again, and reports it


def repeated(
  item: tuple[bytes, Iterable[tuple[int, int]]],
) -> Iterator[tuple[int, int]]:
  """The places of the documents with one key, but for the first."""
  yield from sorted(item[1])[1:]


def joined(
  item: tuple[int, dict[str, Iterable[Any]]],
) -> tuple[int, Any, frozenset[int]]:
  """A source shard with the numbers of its repeated documents."""
  shard, values = item
  (source,) = values['source']
  return shard, source, frozenset(values['repeated'])


def encode(
  item: tuple[Any, ...],
  text: Any,
  split: str,
  layout: Layout,
) -> Iterator[Any]:
  """The pieces of a source shard by their keys, and then its counts."""
  import apache_beam as beam

  shard, source, *known = item  # `joined`, where the text compares shards
  texts = _Reading(text.shard_texts(split, source, *known))
  place = num_documents = num_bytes = 0
  try:
    documents = encoding.documents(texts, layout.vocab, processes=1)
    for index, document in enumerate(documents):
      ids_T = document.ids_T
      if isinstance(ids_T, np.ndarray) and len(ids_T) <= 1:
        continue  # an empty document
      start = place
      parts = enumerate(features.arrays(ids_T))
      for number, (part_T, begins, ends) in parts:
        encoding.checked(part_T, layout.vocab, layout.name)
        data = part_T.astype('<i4').tobytes()
        yield (shard, index, number), Piece(place, begins, start, ends, data)
        place += len(part_T)
      num_documents += 1
      num_bytes += document.num_bytes
    report = texts.report
  except errors.InputError as e:
    report = e  # the calling process raises it
  counted = Counted(shard, place, num_documents, num_bytes, report)
  yield beam.pvalue.TaggedOutput('counts', counted)


class _Reading:
  """Iterates over a generator, and keeps what it returns as `report`."""

  report: Any = None

  def __init__(self, texts: Generator[Any, None, Any]):
    self._texts = texts

  def __iter__(self) -> Iterator[Any]:
    self.report = yield from self._texts


def first_places(counts: Iterable[Any]) -> dict[int, int]:
  """The place of the first token of each source shard, among all tokens."""
  first, place = {}, 0
  for count in sorted(counts, key=lambda count: count.shard):
    first[count.shard] = place
    place += count.num_tokens
  return first


def cut(
  item: tuple[tuple[int, int, int], Any],
  first: dict[int, int],
  layout: Layout,
) -> Iterator[Any]:
  """The tokens of a piece by output shard; and 1 if its document is cut."""
  import apache_beam as beam

  (shard, _, _), piece = item
  base, length = first[shard], layout.length
  size = layout.rows_per_shard * length
  place, end = base + piece.place, base + piece.place + len(piece.data) // 4
  begins, data = piece.begins, piece.data
  if piece.ends and (base + piece.start) // length != (end - 1) // length:
    yield beam.pvalue.TaggedOutput('cut', 1)
  while place < end:
    number = place // size
    stop = min(end, (number + 1) * size)
    num_bytes = 4 * (stop - place)
    yield number, (place, begins, data[:num_bytes])
    place, begins, data = stop, False, data[num_bytes:]


def write_shard(
  item: tuple[int, Iterable[tuple[int, bool, bytes]]],
  layout: Layout,
  folder: str,
) -> Any:
  """Writes one output shard."""
  number, tokens = item
  blocks = features.pack(
    _documents(sorted(tokens)),
    layout.length,
    rows_per_block=layout.rows_per_block,
  )
  dtype = features.row_dtype(layout.length, layout.vocab.size)
  digest, size = hashlib.sha256(), 0

  def records() -> Iterator[bytes]:
    nonlocal size
    for rows, _ in blocks:
      data = features.records(rows, dtype)
      digest.update(data)
      size += len(data)
      yield data

  name = f'{number:05d}.rows'
  save(f'{folder}/{name}', records())
  num_rows = size // dtype.itemsize
  return cache.Shard(name, num_rows, size, digest.hexdigest())


def _documents(
  tokens: list[tuple[int, bool, bytes]],
) -> Iterator[Iterator[np.ndarray]]:
  """The tokens of an output shard by document; the first may be a rest."""
  number = 0
  while number < len(tokens):
    stop = number + 1
    while stop < len(tokens) and not tokens[stop][1]:
      stop += 1
    yield (np.frombuffer(x, '<i4') for _, _, x in tokens[number:stop])
    number = stop


def save_results(lists: Iterable[Any], path: str) -> None:
  """Writes pairs (name, list) as one pickled dictionary."""
  save(path, [pickle.dumps(dict(lists))])


def save(path: str, blocks: Iterable[bytes]) -> None:
  """Writes a file of any of Beam's file systems, whole or not at all."""
  from apache_beam.io.filesystem import CompressionTypes
  from apache_beam.io.filesystems import FileSystems

  part = f'{path}.{secrets.token_hex(8)}.part'
  plain = CompressionTypes.UNCOMPRESSED
  with FileSystems.create(part, compression_type=plain) as out:
    for block in blocks:
      out.write(block)
  FileSystems.rename([part], [path])
