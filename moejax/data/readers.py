"""One reader per kind of text file; all in plain Python, so errors have lines.

Each yields an `Item` per document: its text, or what is wrong with it.
"""

import gzip
import json
import pathlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from moejax.core import errors
from moejax.data import seqio_bridge


class Item(NamedTuple):
  """A document, or a bad line.

  Attributes:
    where: 'file:line'.
    text: '' if the line is bad.
    problem: '' if the line is good.
  """

  where: str
  text: str
  problem: str


def read_txt(path: pathlib.Path, field: str) -> Iterator[Item]:
  """The whole file is one document."""
  del field
  try:
    text = path.read_bytes().decode('utf-8-sig')
  except UnicodeDecodeError as e:
    raise errors.InputError(
      f'{path} is not UTF-8 text (byte {e.start}): convert it, or leave it out '
      'of data.files'
    ) from None
  if text.strip():
    yield Item(str(path), text, '')


def read_jsonl(path: pathlib.Path, field: str) -> Iterator[Item]:
  """A JSON object a line; blank lines are passed over."""
  with path.open('rb') as lines:
    yield from _json_lines(path, lines, field)


def read_jsonl_gz(path: pathlib.Path, field: str) -> Iterator[Item]:
  """The same, compressed by gzip."""
  with gzip.open(path) as lines:
    yield from _json_lines(path, lines, field)


def _json_lines(path: pathlib.Path, lines: Any, field: str) -> Iterator[Item]:
  for number, line in enumerate(lines, 1):
    if line.strip():
      yield json_item(f'{path}:{number}', line, field)


def json_item(where: str, line: bytes, field: str) -> Item:
  """The document of one line of JSON."""
  try:
    value = json.loads(line)
  except (ValueError, RecursionError) as e:
    return Item(where, '', f'not JSON ({str(e).splitlines()[0]})')
  if not isinstance(value, dict):
    return Item(where, '', 'not a JSON object')
  if field not in value:
    known = ', '.join(map(repr, value)) or 'none'
    return Item(where, '', f'no field {field!r} (data.text_field); has {known}')
  return _checked(where, value[field], field)


def _checked(where: str, text: Any, field: str) -> Item:
  """A document, if the field holds text that has a UTF-8 form."""
  if not isinstance(text, str):
    kind = type(text).__name__
    return Item(where, '', f'field {field!r} holds {kind}, not text')
  try:
    text.encode()
  except UnicodeEncodeError:
    return Item(where, '', f'field {field!r} has half a surrogate pair')
  return Item(where, text, '')


def read_parquet(path: pathlib.Path, field: str) -> Iterator[Item]:
  """A row is a document; the column has the field's name."""
  instead = 'make .jsonl.gz of it'
  with seqio_bridge.needed(str(path), 'pyarrow', instead):
    import pyarrow as pa
    from pyarrow import parquet

  try:
    with parquet.ParquetFile(path) as file:
      names = file.schema_arrow.names
      if field not in names:
        raise errors.InputError(
          f'{path} has no column {field!r} (data.text_field); it has: '
          f'{", ".join(names)}'
        )
      number = 0
      for rows in file.iter_batches(batch_size=256, columns=[field]):
        for text in rows.column(0).to_pylist():
          number += 1
          yield _checked(f'{path}:row {number}', text, field)
  except pa.ArrowInvalid as e:
    raise errors.InputError(
      f'{path} cannot be read as parquet: {str(e).splitlines()[0]}'
    ) from None


READERS: dict[str, Callable[[pathlib.Path, str], Iterator[Item]]] = {
  '.txt': read_txt,
  '.jsonl': read_jsonl,
  '.jsonl.gz': read_jsonl_gz,
  '.parquet': read_parquet,
}


def suffix(path: pathlib.Path) -> str:
  """Which of READERS a file name ends in; '' is none."""
  return next((s for s in READERS if path.name.endswith(s)), '')


def read(path: pathlib.Path, field: str) -> Iterator[Item]:
  """The documents of one file.

  Raises:
    InputError: the file cannot be read, is damaged, or holds no document.
  """
  empty = True
  try:
    for item in READERS[suffix(path)](path, field):
      empty = False
      yield item
  except (OSError, EOFError, zlib.error) as e:
    reason = getattr(e, 'strerror', None) or str(e)
    raise errors.InputError(f'{path} cannot be read: {reason}') from None
  if empty:
    raise errors.InputError(
      f'{path} is empty: remove it, or leave it out of data.files'
    )
