"""Reads a file of JSON that is one list, entry by entry.

  [{"id": 1, "conversations": [...]}, {"id": 2, ...}]

This is the form of LLaVA's and ShareGPT's files. In memory are one entry and
the piece of the file that was read last, so a file may be larger than memory.
A file that begins with an object is read as JSON lines.
"""

import codecs
import json
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from moejax.core import errors
from moejax.data import opening, readers

PIECE = 2**20  # bytes that are read at once
LONGEST = 2**26  # characters of an entry
NEITHER = (
  'neither a JSON list, [{...}, {...}], nor JSON lines, an object in each line'
)
# Errors of an entry that is cut off are near its end, but for this one.
_NEAR, _OPEN_STRING = 16, 'Unterminated string'
_SPACE = re.compile(r'[ \t\r\n]*')

Make = Callable[[str, dict[str, Any]], readers.Item]


def read(
  path: pathlib.Path, make: Make, open_file: readers.Open = opening.plain
) -> Iterator[readers.Item]:
  """An item for each entry of a list, or for each line of JSON lines.

  A list is read up to its first mistake in the syntax of JSON, because nothing
  behind it can be told apart.

  Args:
    path: the file.
    make: (place, object) to an item. Places are 'file:entry n' in a list.
    open_file: opens the file.
  """
  name = errors.shown(path)
  with open_file(path) as file:
    text = _Text(file)
    try:
      first = text.peek()
      if first == '[':
        yield from _entries(name, text, make)
        return
    except UnicodeDecodeError as e:
      e.start += text.num_bytes - len(e.object)  # counted from the beginning
      yield readers.Item(name, '', readers.not_utf8(text.head, e))
      return
  if first == '{':
    yield from _lines(name, readers.read_jsonl(path, make, open_file))
  elif first:
    yield readers.Item(name, '', NEITHER)


def _lines(name: str, items: Iterator[readers.Item]) -> Iterator[readers.Item]:
  """The items, or that the file has no JSON in its first line."""
  first = next(items)
  if first.problem.startswith(readers.NOT_JSON):
    yield readers.Item(name, '', NEITHER)
    return
  yield first
  yield from items


class _Text:
  """The text of a file from some place on.

  Args:
    file: an open file.

  Attributes:
    buffer: text that was read.
    at: how much of the buffer was used.
    head: the first bytes of the file.
    num_bytes: bytes that were read.
  """

  def __init__(self, file: Any):
    self._file = file
    self._decoder = codecs.getincrementaldecoder('utf-8-sig')()
    self.buffer, self.at, self._ended = '', 0, False
    self.head, self.num_bytes = b'', 0

  def more(self) -> bool:
    """Reads a piece, as long as what is left already; False at the end."""
    if self._ended:
      return False
    self.buffer, self.at = self.buffer[self.at :], 0
    piece = self._file.read(max(PIECE, len(self.buffer)))
    self.head = (self.head + piece[:2])[:2]
    self.num_bytes += len(piece)
    self._ended = not piece
    self.buffer += self._decoder.decode(piece, self._ended)
    return not self._ended

  def peek(self) -> str:
    """The next character that is no white space; '' at the end."""
    while True:
      found = _SPACE.match(self.buffer, self.at)
      self.at = found.end() if found else self.at
      if self.at < len(self.buffer) or not self.more():
        return self.buffer[self.at : self.at + 1]


def _entries(name: str, text: _Text, make: Make) -> Iterator[readers.Item]:
  text.at += 1
  number, sign = 0, text.peek()
  while sign != ']':
    number += 1
    where = f'{name}:entry {number}'
    try:
      value = _entry(text)
    except json.JSONDecodeError as e:
      # Not the whole error: its line and column are those of the buffer.
      yield readers.Item(where, '', f'{readers.NOT_JSON} ({e.msg})')
      return
    except (_TooLongError, RecursionError) as e:
      yield readers.Item(where, '', str(e))
      return
    if isinstance(value, dict):
      yield make(where, value)
    else:
      yield readers.Item(where, '', 'not a JSON object')
    sign = text.peek()
    if sign == ',':
      text.at += 1
      sign = ''
    elif sign != ']':
      problem = 'behind it is neither a comma nor the end of the list'
      yield readers.Item(where, '', problem)
      return
  text.at += 1
  if text.peek():
    yield readers.Item(name, '', 'has more text behind the end of its list')


def _entry(text: _Text) -> Any:
  """The next value, which is used up.

  Raises:
    JSONDecodeError: it is no JSON.
    _TooLongError: it is longer than LONGEST.
  """
  text.peek()
  decoder = json.JSONDecoder()
  while True:
    try:
      value, end = decoder.raw_decode(text.buffer, text.at)
    except json.JSONDecodeError as e:
      whole = e.pos + _NEAR < len(text.buffer)
      if whole and _OPEN_STRING not in e.msg:
        raise
      if len(text.buffer) - text.at > LONGEST:
        raise _TooLongError(f'has over {LONGEST:,} characters') from None
      if not text.more():
        raise
      continue
    # A number may go on in the next piece.
    if end < len(text.buffer) or not text.more():
      text.at = end
      return value


class _TooLongError(Exception):
  """An entry that is not read."""
