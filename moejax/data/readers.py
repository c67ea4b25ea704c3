"""READERS: one reader per kind of text file, in plain Python.

A reader yields an `Item` for each document, with its text or the problem with
it, and with the place it came from. Every problem with the contents of a file
is an `Item`, and the caller decides whether to stop. Only a file that the
system cannot read raises an error.
"""

import functools
import json
import os
import pathlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from moejax.core import errors, files
from moejax.data import long_text, opening, seqio_bridge

NOT_JSON = 'not JSON'  # with which the problem of such text begins
Open = Callable[[pathlib.Path], Any]
# The text field of an object, or a function (place, object) to an Item.
Field = str | Callable[[str, dict[str, Any]], 'Item']


class Item(NamedTuple):
  """A document, or the problem with one.

  Attributes:
    where: place of the document: 'file', 'file:line' or 'file:row n'.
    text: the document, a LongText if the file is large; '' if it is bad. Other
      readers of objects make something else of them, such as conversations.
    problem: why the document is bad; '' if it is good.
    lacks_field: whether the problem is only that the text field is missing.
  """

  where: str
  text: Any
  problem: str
  lacks_field: bool = False


class _DamagedError(Exception):
  """The contents of a file are damaged from some row on."""


def read_txt(
  path: pathlib.Path, field: str, open_file: Open = opening.plain
) -> Iterator[Item]:
  """One document: the whole file. A blank file yields none."""
  del field
  where = errors.shown(path)
  local = open_file is opening.plain and not opening.is_remote(path)
  if local and path.stat().st_size > long_text.LONG:
    yield from _long_txt(where, path)
    return
  with open_file(path) as file:
    data = file.read()
  try:
    text = data.decode('utf-8-sig')
  except UnicodeDecodeError as e:
    yield Item(where, '', not_utf8(data, e))
    return
  if text.strip():
    yield _checked(where, text, 'the file')


def _long_txt(where: str, path: pathlib.Path) -> Iterator[Item]:
  """The document of a large .txt file, which is checked chunk by chunk."""
  text = long_text.of_file(path)
  blank, characters = True, 0
  try:
    for chunk in text.chunks():
      nul = chunk.find('\0')
      if nul >= 0:
        yield _with_nul(where, 'the file', characters + nul)
        return
      characters += len(chunk)
      blank = blank and not chunk.strip()
  except UnicodeDecodeError as e:
    with path.open('rb') as file:
      yield Item(where, '', not_utf8(file.read(2), e))
    return
  if not blank:
    yield Item(where, text, '')


def read_jsonl(
  path: pathlib.Path, field: Field, open_file: Open = opening.plain
) -> Iterator[Item]:
  """A document per line, each a JSON object; blank lines are skipped."""
  name = errors.shown(path)
  with open_file(path) as lines:
    for number, line in enumerate(lines, 1):
      if line.strip():
        yield json_item(f'{name}:{number}', line, field)


def json_item(where: str, line: bytes, field: Field) -> Item:
  """The document of one line of JSON."""
  try:
    value = json.loads(line.decode('utf-8-sig'))
  except UnicodeDecodeError as e:
    return Item(where, '', not_utf8(line, e))
  except (ValueError, RecursionError) as e:
    return Item(where, '', f'{NOT_JSON} ({str(e).splitlines()[0]})')
  if not isinstance(value, dict):
    return Item(where, '', 'not a JSON object')
  if not isinstance(field, str):
    return field(where, value)
  if field not in value:
    known = ', '.join(map(repr, value)) or 'none'
    problem = f'no field {field!r} (data.text_field); has {known}'
    return Item(where, '', problem, lacks_field=True)
  return _checked(where, value[field], f'field {field!r}')


def read_parquet(path: pathlib.Path, field: str) -> Iterator[Item]:
  """A document per row, from the column `field`."""
  name = errors.shown(path)
  with seqio_bridge.needed(name, 'pyarrow', 'make .jsonl.gz of it'):
    import pyarrow as pa
    from pyarrow import parquet

  try:
    # Opened in Python: pyarrow refuses names that are not UTF-8.
    with opening.plain(path) as opened, parquet.ParquetFile(opened) as file:
      columns = file.schema_arrow.names
      if field not in columns:
        has = ', '.join(columns) or 'none'
        problem = f'no column {field!r} (data.text_field); it has: {has}'
        yield Item(name, '', problem, lacks_field=True)
        return
      number = 0
      for rows in file.iter_batches(batch_size=256, columns=[field]):
        for cell in rows.column(0):
          number += 1
          yield _cell(f'{name}:row {number}', cell, field)
  except pa.ArrowException as e:
    raise _DamagedError(str(e).splitlines()[0]) from None


def _cell(where: str, cell: Any, field: str) -> Item:
  """The document of a cell of a column."""
  try:
    text = cell.as_py()
  except UnicodeDecodeError as e:
    return Item(where, '', not_utf8(e.object, e))
  except (ValueError, OverflowError) as e:
    reason = str(e).splitlines()[0]
    return Item(where, '', f'field {field!r} cannot be read ({reason})')
  return _checked(where, text, f'field {field!r}')


def _checked(where: str, text: Any, place: str) -> Item:
  """A document, if the value is text that can be encoded and has no NUL."""
  if not isinstance(text, str):
    return Item(where, '', f'{place} holds {type(text).__name__}, not text')
  try:
    text.encode()
  except UnicodeEncodeError:
    return Item(where, '', f'{place} has half a surrogate pair')
  at = text.find('\0')
  return Item(where, text, '') if at < 0 else _with_nul(where, place, at)


def _with_nul(where: str, place: str, at: int) -> Item:
  problem = (
    f'{place} has a NUL (character {at}), as binary data and UTF-16 have'
  )
  return Item(where, '', problem)


def not_utf8(data: bytes, e: UnicodeDecodeError) -> str:
  """The problem with bytes that are not UTF-8."""
  if data[:2] in {b'\xff\xfe', b'\xfe\xff'}:
    return 'not UTF-8 text but UTF-16, by its first bytes'
  return f'not UTF-8 text (byte {e.start})'


Readers = dict[str, Callable[[pathlib.Path, Any], Iterator[Item]]]
READERS: Readers = {
  '.txt': read_txt,
  '.txt.gz': functools.partial(read_txt, open_file=opening.gzipped),
  '.txt.zst': functools.partial(read_txt, open_file=opening.zstandard),
  '.jsonl': read_jsonl,
  '.jsonl.gz': functools.partial(read_jsonl, open_file=opening.gzipped),
  '.jsonl.zst': functools.partial(read_jsonl, open_file=opening.zstandard),
  # The endings of C4's and Dolma's files, which are JSON lines.
  '.json.gz': functools.partial(read_jsonl, open_file=opening.gzipped),
  '.json.zst': functools.partial(read_jsonl, open_file=opening.zstandard),
  '.parquet': read_parquet,
}


def suffix(path: pathlib.Path, kinds: Readers = READERS) -> str:
  """The key of a table of readers that a file name ends in; '' for none."""
  name = path.name.lower()
  return next((s for s in kinds if name.endswith(s)), '')


def no_file(path: pathlib.Path) -> str:
  """As `core.files.no_file`, for paths of texts, which may be remote."""
  return '' if opening.is_remote(path) else files.no_file(path)


def read(
  path: pathlib.Path, field: Field, kinds: Readers = READERS
) -> Iterator[Item]:
  """The documents of one file, good and bad.

  A damaged file yields the documents before the damage.

  Args:
    path: the file.
    field: what is read of an object.
    kinds: the reader of each kind of file.

  Raises:
    InputError: the system cannot read the file.
  """
  where, number = errors.shown(path), 0
  if problem := no_file(path):
    yield Item(where, '', problem)
    return
  try:
    for item in kinds[suffix(path, kinds)](path, field):
      number += 1
      yield item
  except (OSError, EOFError, zlib.error, _DamagedError) as e:
    # Errors of the system have a number; others are about the contents.
    if isinstance(e, OSError) and e.errno is not None:
      reason = os.strerror(e.errno)
      raise errors.InputError(f'{where} cannot be read: {reason}') from None
    reason = (str(e) or type(e).__name__).splitlines()[0]
    beyond = f' beyond document {number:,}' if number else ''
    yield Item(where, '', f'damaged, cannot be read{beyond}: {reason}')
    return
  if not number:
    yield Item(where, '', 'empty')
