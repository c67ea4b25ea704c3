"""Documents of any length, encoded piece by piece to the ids of the whole.

A tokenizer that is given a document of a gigabyte needs fifty to two hundred
times as much memory. So a long document is read in chunks, cut into pieces of
some hundred thousand characters, and each piece is encoded by itself. A cut may
only be where it makes no difference to the ids:

  1. Candidates are places that tokenizers themselves split at: a line that
     begins, then a word that begins, then, in text without spaces, any place.
  2. A candidate is tried on the text around it. It is taken if the ids of the
     whole window are those of its left part and, behind them, those of its
     right part.
  3. The right part is encoded behind the few characters that precede it, and
     their ids are dropped. So nothing that a tokenizer does at the beginning of
     a text, such as putting a space there, happens at a cut.

Example, a tokenizer that puts a space before a text, and a cut after 'one,':
  whole   'one, two'         ids of [' one' ',' ' two']
  left    'one,'             [' one' ',']
  right   'ne,' + ' two'     [' ne' ','] dropped, then [' two']

Byte-pair and unigram tokenizers decide on a token by what is near it: the
tokens of a stretch without a cut inside depend on nothing beyond it. A token
that reaches across a candidate, or is chosen otherwise because of what is
behind it, shows in the window, which is longer than any token. One stretch
has no end in sight: in a run of the same few characters, a token's place may
depend on how long the run is. So what is not where a line or a word begins is
no candidate there. Where no candidate holds, the piece grows until one does.
"""

import codecs
import dataclasses
import hashlib
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from moejax.core import errors
from moejax.data import vocab as vocabs

LONG = 2**22  # characters, or bytes of a file: longer documents are cut
PIECE = 2**18  # characters, about
WINDOW = 2**11  # characters on each side of a candidate
CONTEXT = 16  # characters that precede a piece
TRIES = 32  # candidates of each kind
_CHUNK = 2**20  # bytes that are read at a time
_GROUP = 4  # pieces that are encoded at a time

# In the order in which they are tried: where a line begins, where a word does,
# behind punctuation, anywhere.
_BORDERS = (
  re.compile(r'(?<=\n)(?=[^\s])'),
  re.compile(r'(?<=[^\s])(?= [^\s])'),
)
_INSIDE = (
  re.compile(r'(?<=\W)(?=\w)'),
  re.compile(r'(?<=.)(?=.)', re.DOTALL),
)


class LongDocument(NamedTuple):
  """One document in several arrays of ids, the last of which ends in EOS."""

  parts: Iterator[np.ndarray]
  num_bytes: int


@dataclasses.dataclass(frozen=True)
class LongText:
  """A part of a UTF-8 file that is one document, read when it is asked for.

  Attributes:
    path: of the file.
    start: its first byte.
    stop: the byte after its last.
  """

  path: pathlib.Path
  start: int
  stop: int

  def __bool__(self) -> bool:
    return self.stop > self.start

  @property
  def num_bytes(self) -> int:
    """Of its UTF-8."""
    return self.stop - self.start

  def chunks(self) -> Iterator[str]:
    """The text, some of it at a time.

    Raises:
      UnicodeDecodeError: it is not UTF-8; `start` is the byte in the file.
    """
    decoder = codecs.getincrementaldecoder('utf-8')()
    at = self.start
    for data in self._blocks():
      held = len(decoder.getstate()[0])
      try:
        yield decoder.decode(data)
      except UnicodeDecodeError as e:
        raise _moved(e, at - held) from None
      at += len(data)
    held = len(decoder.getstate()[0])
    try:
      decoder.decode(b'', final=True)
    except UnicodeDecodeError as e:
      raise _moved(e, at - held) from None

  def sha256(self) -> bytes:
    """The checksum of its UTF-8."""
    digest = hashlib.sha256()
    for data in self._blocks():
      digest.update(data)
    return digest.digest()

  def ends(self, fraction: float) -> tuple['LongText', 'LongText']:
    """All but its last part, and that; cut as `files.ends` cuts a text."""
    characters = sum(map(_num_characters, self._blocks()))
    cut = self._byte_of(round(characters * (1 - fraction)))
    line = self._line_end(cut)
    if line is not None and line < self.stop - 1:
      cut = line + 1
    return (
      dataclasses.replace(self, stop=cut),
      dataclasses.replace(self, start=cut),
    )

  def _blocks(self) -> Iterator[bytes]:
    """The bytes, some at a time.

    Raises:
      InputError: the file cannot be read any more, or has become shorter.
    """
    left = self.num_bytes
    try:
      with self.path.open('rb') as file:
        file.seek(self.start)
        while left and (data := file.read(min(_CHUNK, left))):
          left -= len(data)
          yield data
    except OSError as e:
      raise errors.InputError(
        f'{errors.shown(self.path)} cannot be read: {e.strerror or e}'
      ) from None
    if left:
      raise errors.InputError(
        f'{errors.shown(self.path)} became shorter while it was read: wait '
        'until it is whole'
      )

  def _byte_of(self, character: int) -> int:
    """Where a character begins in the file; its end if there is none."""
    at = self.start
    for data in self._blocks():
      num = _num_characters(data)
      if num > character:
        first_N = np.flatnonzero(_begins(data))
        return at + int(first_N[character])
      character -= num
      at += len(data)
    return self.stop

  def _line_end(self, at: int) -> int | None:
    for data in dataclasses.replace(self, start=at)._blocks():
      found = data.find(b'\n')
      if found >= 0:
        return at + found
      at += len(data)
    return None


def of_file(path: pathlib.Path) -> LongText:
  """A whole file, without the mark of the byte order that may begin it."""
  with path.open('rb') as file:
    mark = file.read(3) == codecs.BOM_UTF8
  return LongText(path, 3 * mark, os.stat(path).st_size)


def _moved(e: UnicodeDecodeError, by: int) -> UnicodeDecodeError:
  """The same error of a file, whose bytes are counted from its beginning."""
  return UnicodeDecodeError(e.encoding, b'', by + e.start, by + e.end, e.reason)


def _begins(data: bytes) -> np.ndarray:
  """Which bytes of UTF-8 begin a character."""
  return (np.frombuffer(data, np.uint8) & 0xC0) != 0x80


def _num_characters(data: bytes) -> int:
  return int(_begins(data).sum())


def is_long(text: 'str | LongText') -> bool:
  """Whether a document is to be encoded in pieces."""
  return isinstance(text, LongText) or len(text) > LONG


def whole(text: str | LongText) -> str:
  """All of a text, in memory."""
  return text if isinstance(text, str) else ''.join(text.chunks())


def document(text: str | LongText, vocab: vocabs.Vocab) -> LongDocument:
  """The ids of a long document, EOS behind them."""
  if isinstance(text, LongText):
    return LongDocument(_with_eos(text.chunks(), vocab), text.num_bytes)
  chunks = (text[i : i + _CHUNK] for i in range(0, len(text), _CHUNK))
  return LongDocument(_with_eos(chunks, vocab), len(text.encode()))


def _with_eos(
  chunks: Iterable[str], vocab: vocabs.Vocab
) -> Iterator[np.ndarray]:
  for ids in encode(chunks, vocab):
    if ids:  # some tokenizers leave space at the end of a text out
      yield np.array(ids, np.int32)
  yield np.array([vocab.eos_id], np.int32)


def encode(chunks: Iterable[str], vocab: vocabs.Vocab) -> Iterator[list[int]]:
  """The ids of a text, piece by piece: all of them are those of the whole.

  Args:
    chunks: the text, cut anywhere.
    vocab: the tokenizer.
  """
  found = pieces(chunks, vocab)
  while group := list(itertools.islice(found, _GROUP)):
    heads = vocab.encode_batch([piece.context for piece in group])
    whole = vocab.encode_batch([p.context + p.text for p in group])
    for head, ids in zip(heads, whole, strict=True):
      if ids[: len(head)] != head:
        raise AssertionError('a cut was tried and is noticed all the same')
      yield ids[len(head) :]


class Piece(NamedTuple):
  """A piece of a text, and the few characters before it."""

  context: str
  text: str


def pieces(chunks: Iterable[str], vocab: vocabs.Vocab) -> Iterator[Piece]:
  """Cuts a text where the tokenizer cannot notice.

  Args:
    chunks: the text, cut anywhere.
    vocab: the tokenizer.
  """
  context = text = ''
  tried = 0
  for chunk in chunks:
    text += chunk
    while len(text) - tried >= PIECE + WINDOW:
      cut = _find_cut(text, tried + PIECE, vocab)
      if cut is None:
        # Candidates before this are not tried again.
        tried += PIECE
        continue
      yield Piece(context, text[:cut])
      context, text, tried = text[max(0, cut - CONTEXT) : cut], text[cut:], 0
  if text:
    yield Piece(context, text)


def _find_cut(text: str, near: int, vocab: vocabs.Vocab) -> int | None:
  """A place in the last part before `near` at which the text can be cut."""
  first = max(CONTEXT, near - PIECE // 2)
  for kind in (*_BORDERS, *_INSIDE):
    # The last ones: pieces are as long as they should be.
    found = [m.start() for m in kind.finditer(text, first, near)]
    for at in reversed(found[-TRIES:]):
      if kind in _INSIDE and _is_in_a_run(text, at):
        continue
      if _is_unnoticed(text, at, vocab):
        return at
  return None


def _is_in_a_run(text: str, at: int) -> bool:
  """Whether the text repeats itself all over the window on one side."""
  return any(
    (period := side.find(side[:CONTEXT], 1)) > 0
    and side[period:] == side[:-period]
    for side in (text[max(0, at - WINDOW) : at], text[at : at + WINDOW])
  )


def _is_unnoticed(text: str, at: int, vocab: vocabs.Vocab) -> bool:
  """Whether the ids around a place are the same with a cut there."""
  left, right = text[max(0, at - WINDOW) : at], text[at : at + WINDOW]
  context = left[-CONTEXT:]
  whole, before, head, after = vocab.encode_batch([
    left + right,
    left,
    context,
    context + right,
  ])
  return after[: len(head)] == head and whole == before + after[len(head) :]
