"""Estimates the work of packing a text from a sample of its files."""

import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

from moejax.data import features, long_text, readers, workers
from moejax.data.request import Expected, Request

FILES = 8  # of which a sample is taken, spread evenly over all
_HEAD = 2**19  # bytes of a file that are read
_CHARS = 2**16  # characters of a file that are encoded


class Sample(NamedTuple):
  """Some documents of a text.

  Attributes:
    texts: the documents; the last of a file may be cut.
    num_bytes: UTF-8 bytes of the whole text, estimated from the sample.
  """

  texts: list[str]
  num_bytes: int


def of_files(paths: Sequence[pathlib.Path], field: str) -> Sample:
  """A sample of text files.

  Args:
    paths: the files.
    field: the field or column that holds the text.
  """
  regular = [path for path in paths if not readers.no_file(path)]
  sizes = [path.stat().st_size for path in regular]
  step = max(1, -(-len(regular) // FILES))
  texts: list[str] = []
  read = text_bytes = 0.0
  for path in regular[::step]:
    some, num_bytes, num_read = _head(path, field)
    texts += some
    text_bytes += num_bytes
    read += num_read
  return Sample(texts, round(sum(sizes) * text_bytes / read) if read else 0)


def _head(path: pathlib.Path, field: str) -> tuple[list[str], int, int]:
  """Text at the beginning of a file, with bytes of text and bytes of file.

  The bytes of text may be those of more text than is returned.
  """
  size = path.stat().st_size
  if readers.suffix(path) == '.parquet':
    texts, num_bytes = _some(path, field, most=_CHARS)
    return texts, _parquet_text(path, field) or num_bytes, size
  with tempfile.TemporaryDirectory() as folder:
    head = pathlib.Path(folder) / f'head{readers.suffix(path)}'
    with path.open('rb') as file:
      data = file.read(_HEAD)
    if readers.suffix(path) == '.txt':
      data = data.decode(errors='ignore').encode()
    head.write_bytes(data)
    # The end of a head is damaged, as a download that was cut off.
    texts, num_bytes = _some(head, field)
    return texts, num_bytes, min(_HEAD, size)


def _some(
  path: pathlib.Path, field: str, most: float = float('inf')
) -> tuple[list[str], int]:
  """The first texts of a file, and the bytes of all that were read."""
  texts: list[str] = []
  num_bytes = chars = 0
  for item in readers.read(path, field):
    text = long_text.whole(item.text)
    num_bytes += len(text.encode())
    if chars < _CHARS:
      texts.append(text[: _CHARS - chars])
      chars += len(texts[-1])
    if chars >= most:
      break
  return texts, num_bytes


def _parquet_text(path: pathlib.Path, field: str) -> int:
  """The bytes of a column's pages before compression; 0 if not known."""
  try:
    from pyarrow import parquet

    metadata = parquet.read_metadata(path)
  except (ImportError, OSError, ValueError):
    return 0
  groups = map(metadata.row_group, range(metadata.num_row_groups))
  columns = (g.column(i) for g in groups for i in range(g.num_columns))
  return sum(
    column.total_uncompressed_size
    for column in columns
    if column.path_in_schema == field
  )


def expected(
  sample: Sample, request: Request, done: int = 0
) -> Expected | None:
  """The work of packing a text; None if the sample is empty.

  The sample is encoded by this process alone, and `request.processes` are
  assumed to be that many times as fast.

  Args:
    sample: of the text.
    request: how it is packed.
    done: bytes of text that are packed already.
  """
  vocab = request.vocab
  chars = sum(len(text.encode()) for text in sample.texts)
  if not chars:
    return None
  vocab.encode(sample.texts[0][:100])  # loads the tokenizer
  begin = time.perf_counter()
  tokens = sum(len(vocab.encode(text)) + 1 for text in sample.texts)
  seconds = time.perf_counter() - begin
  num_tokens = round(tokens / chars * sample.num_bytes)
  row = features.row_dtype(request.length, vocab.size).itemsize
  processes = request.processes or workers.cores()
  left = max(0, sample.num_bytes - done)
  return Expected(
    num_bytes=sample.num_bytes,
    num_tokens=num_tokens,
    row_bytes=-(-num_tokens // request.length) * row,
    seconds=seconds / chars * left / processes,
    processes=processes,
  )
