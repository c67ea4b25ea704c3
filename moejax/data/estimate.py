"""Estimates the work of packing a text from a sample of its documents."""

import contextlib
import pathlib
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

from moejax.core import errors
from moejax.data import features, long_text, opening, readers, workers
from moejax.data.request import Expected, Request

FILES = 8  # of which a sample is taken, spread evenly over all
_HEAD = 2**19  # bytes of a file, or of a stream of documents, that are read
_CHARS = 2**16  # characters of a file, or of a stream, that are encoded


class Sample(NamedTuple):
  """Some documents of a text.

  Attributes:
    texts: the documents; the last of a file may be cut.
    document_bytes: mean UTF-8 bytes of a document.
    num_documents: number of documents of the whole text, estimated from the
      sample unless the source knows it; None if nothing says it.
    proviso: what the estimate depends on, as the end of a sentence.
  """

  texts: list[str]
  document_bytes: float
  num_documents: float | None
  proviso: str = ''


class _Head(NamedTuple):
  """The documents at the beginning of a file.

  Attributes:
    texts: the documents that are to be encoded.
    text_bytes: UTF-8 bytes of the text, of more documents than `texts`.
    num_documents: how many documents have that text.
    file_bytes: bytes of the file that hold them.
  """

  texts: list[str]
  text_bytes: float
  num_documents: float
  file_bytes: int


def of_files(paths: Sequence[Any], field: str) -> Sample:
  """A sample of text files, on a disk or in an object store.

  Args:
    paths: the files.
    field: the field or column that holds the text.

  Raises:
    InputError: an object store does not give an object.
  """
  regular = [path for path in paths if not readers.no_file(path)]
  some = regular[:: max(1, -(-len(regular) // FILES))]
  sizes = {path: opening.size(path) for path in some}
  heads = [_head(path, field, size) for path, size in sizes.items()]
  if len(regular) == len(some) or any(map(opening.is_remote, regular)):
    # To ask a store for the sizes of all objects could take hours.
    whole = sum(sizes.values()) * len(regular) / max(1, len(some))
  else:
    whole = sum(map(opening.size, regular))
  read = sum(head.file_bytes for head in heads)
  count = sum(head.num_documents for head in heads)
  return Sample(
    [text for head in heads for text in head.texts],
    sum(head.text_bytes for head in heads) / count if count else 0.0,
    whole * count / read if read else 0.0,
  )


def of_stream(
  texts: Generator[str], count_all: Callable[[], int | None]
) -> Sample:
  """A sample of the first documents of a source that is no file.

  Args:
    texts: its documents, in order; it is closed.
    count_all: asks the source how many documents it has; None if it does not
      say. It is asked last, so that `texts` says why a source cannot be read.
  """
  some: list[str] = []
  num_bytes = count = chars = 0
  with contextlib.closing(texts):
    for text in texts:
      count += 1
      num_bytes += len(text.encode())
      if chars < _CHARS:
        some.append(text[: _CHARS - chars])
        chars += len(some[-1])
      if num_bytes >= _HEAD:
        break
    else:
      return Sample(some, num_bytes / max(1, count), count)  # all are read
  return Sample(some, num_bytes / count, count_all())


def _head(path: Any, field: str, size: int) -> _Head:
  """The beginning of a file of `size` bytes."""
  suffix = readers.suffix(path)
  if suffix == '.parquet':
    head = _some(path, field, size, most=_CHARS)
    return _of_metadata(path, field, head)
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder) / f'head{suffix}'
    with opening.plain(path) as file:
      data = file.read(_HEAD)
    read = len(data)
    if suffix == '.txt':
      data = data.decode(errors='ignore').encode()
    copy.write_bytes(data)
    # The end of a head is damaged, as a download that was cut off.
    head = _some(copy, field, read)
  if suffix.startswith('.txt'):  # a part of one document
    return head._replace(num_documents=read / max(1, size))
  return head


def _some(
  path: Any, field: str, file_bytes: int, most: float = float('inf')
) -> _Head:
  """The documents of a file, up to `most` characters."""
  texts: list[str] = []
  num_bytes = count = chars = 0
  for item in readers.read(path, field):
    if item.problem:
      continue
    text = long_text.whole(item.text)
    count += 1
    num_bytes += len(text.encode())
    if chars < _CHARS:
      texts.append(text[: _CHARS - chars])
      chars += len(texts[-1])
    if chars >= most:
      break
  return _Head(texts, num_bytes, count, file_bytes)


def _of_metadata(path: Any, field: str, head: _Head) -> _Head:
  """A head of a Parquet file with the bytes and rows of the whole column.

  The bytes are those of the column's pages before compression.
  """
  try:
    from pyarrow import parquet

    with opening.plain(path) as file:
      metadata = parquet.read_metadata(file)
  except (ImportError, OSError, ValueError, errors.InputError):
    return head
  groups = map(metadata.row_group, range(metadata.num_row_groups))
  columns = (g.column(i) for g in groups for i in range(g.num_columns))
  num_bytes = sum(
    column.total_uncompressed_size
    for column in columns
    if column.path_in_schema == field
  )
  if not num_bytes:
    return head
  return head._replace(text_bytes=num_bytes, num_documents=metadata.num_rows)


def expected(
  sample: Sample, request: Request, done: int = 0
) -> Expected | None:
  """The work of packing a text; None if it is not known.

  It is not known if the sample is empty, or if nothing says how many documents
  are packed: neither the source nor `request.max_documents`. The sample is
  encoded by this process alone, and `request.processes` are assumed to be that
  many times as fast.

  Args:
    sample: of the text.
    request: how it is packed.
    done: bytes of text that are packed already.
  """
  vocab = request.vocab
  chars = sum(len(text.encode()) for text in sample.texts)
  limits = sample.num_documents, request.max_documents or None
  count = min((n for n in limits if n is not None), default=None)
  if not chars or count is None:
    return None
  vocab.encode(sample.texts[0][:100])  # loads the tokenizer
  begin = time.perf_counter()
  tokens = sum(len(vocab.encode(text)) + 1 for text in sample.texts)
  seconds = time.perf_counter() - begin
  num_bytes = round(sample.document_bytes * count)
  num_tokens = round(tokens / chars * num_bytes)
  row = features.row_dtype(request.length, vocab.size).itemsize
  processes = request.processes or workers.cores()
  left = max(0, num_bytes - done)
  return Expected(
    num_bytes=num_bytes,
    num_tokens=num_tokens,
    row_bytes=-(-num_tokens // request.length) * row,
    seconds=seconds / chars * left / processes,
    processes=processes,
    proviso=sample.proviso,
  )
