"""Encodes documents of any length piece by piece, to the ids of the whole.

To encode a document of a gigabyte at once, a tokenizer needs fifty to two
hundred times as much memory. So a long document is read in chunks, cut into
pieces of some hundred thousand characters, and each piece is encoded by itself.
A cut may only be made where it does not change the ids:

  1. Candidates are the places where tokenizers themselves split: beginnings of
     lines, then of words, then, in text without spaces, any place.
  2. A candidate is tested on a window of text around it. It is accepted if the
     ids of the window are those of its left part followed by those of its right
     part.
  3. The right part is encoded together with the few characters before it, and
     the ids of those are dropped. So what a tokenizer does at the beginning of
     a text, such as adding a space, does not happen at a cut.

Example, a tokenizer that puts a space before a text, and a cut after 'one,':
  whole   'one, two'         ids of [' one' ',' ' two']
  left    'one,'             [' one' ',']
  right   'ne,' + ' two'     [' ne' ','] dropped, then [' two']

Why a window is enough: byte-pair and unigram tokenizers choose a token by the
text near it. A token that reaches across a candidate, or that is chosen
differently because of the text behind it, shows in the window, which is longer
than any token. The exception is a run of the same few characters, in which the
place of a token may depend on the length of the whole run. In such a run only
beginnings of lines and words are candidates. If no candidate is accepted, the
piece grows until one is.
"""

import codecs
import dataclasses
import hashlib
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from moejax.core import errors
from moejax.data import vocab as vocabs

LONG = 2**22  # characters, or bytes of a file: longer documents are cut
PIECE = 2**18  # characters, about
WINDOW = 2**11  # characters on each side of a candidate
CONTEXT = 16  # characters before a piece that are encoded with it
TRIES = 32  # candidates of each kind that are tested
_CHUNK = 2**20  # bytes that are read at a time
_GROUP = 4  # pieces that are encoded at a time

# In the order in which they are tested: beginnings of lines, beginnings of
# words; inside a word, behind punctuation, then anywhere.
_BORDERS = (
  re.compile(r'(?<=\n)(?=[^\s])'),
  re.compile(r'(?<=[^\s])(?= [^\s])'),
)
_INSIDE = (
  re.compile(r'(?<=\W)(?=\w)'),
  re.compile(r'(?<=.)(?=.)', re.DOTALL),
)


class LongDocument(NamedTuple):
  """The ids of one document in several arrays; the last ends in EOS."""

  parts: Iterator[np.ndarray]
  num_bytes: int


@dataclasses.dataclass(frozen=True)
class LongText:
  """One document as a part of a UTF-8 file, which is read when needed.

  Attributes:
    path: the file.
    start: the first byte of the document in the file.
    stop: the byte after its last.
  """

  path: pathlib.Path
  start: int
  stop: int

  def __bool__(self) -> bool:
    return self.stop > self.start

  @property
  def num_bytes(self) -> int:
    """Bytes of its UTF-8."""
    return self.stop - self.start

  def chunks(self) -> Iterator[str]:
    """The text in chunks.

    Raises:
      UnicodeDecodeError: the bytes are not UTF-8; `start` counts from the
        beginning of the file.
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
    """Cuts the last part off, as `files.ends` does for a text in memory."""
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
    """The bytes in blocks.

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
    """The byte at which a character begins; `stop` if there is none."""
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
    """The byte of the next newline from `at` on; None if there is none."""
    for data in dataclasses.replace(self, start=at)._blocks():
      newline = data.find(b'\n')
      if newline >= 0:
        return at + newline
      at += len(data)
    return None


def of_file(path: pathlib.Path) -> LongText:
  """A whole file, without the byte-order mark that may begin it."""
  with path.open('rb') as file:
    mark = file.read(3) == codecs.BOM_UTF8
  return LongText(path, 3 * mark, os.stat(path).st_size)


def _moved(e: UnicodeDecodeError, by: int) -> UnicodeDecodeError:
  """The same error with its bytes counted from the beginning of the file."""
  return UnicodeDecodeError(e.encoding, b'', by + e.start, by + e.end, e.reason)


def _begins(data: bytes) -> np.ndarray:
  """A mask of the bytes of UTF-8 that begin a character."""
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
  """The ids of a long document, followed by EOS."""
  return LongDocument(_with_eos(chunks(text), vocab), num_bytes(text))


def num_bytes(text: str | LongText) -> int:
  """Bytes of the UTF-8 of a text."""
  return text.num_bytes if isinstance(text, LongText) else len(text.encode())


def chunks(text: str | LongText) -> Iterator[str]:
  """A text in chunks."""
  if isinstance(text, LongText):
    return text.chunks()
  return (text[i : i + _CHUNK] for i in range(0, len(text), _CHUNK))


def _with_eos(
  chunks: Iterable[str], vocab: vocabs.Vocab
) -> Iterator[np.ndarray]:
  for ids in encode(chunks, vocab):
    if ids:  # some tokenizers drop whitespace at the end of a text
      yield np.array(ids, np.int32)
  yield np.array([vocab.eos_id], np.int32)


def encode(chunks: Iterable[str], vocab: vocabs.Vocab) -> Iterator[list[int]]:
  """The ids of a text, piece by piece; joined, they are those of the whole.

  Args:
    chunks: the text, cut anywhere.
    vocab: the tokenizer.
  """
  remaining = pieces(chunks, vocab)
  while group := list(itertools.islice(remaining, _GROUP)):
    contexts, texts = zip(*group, strict=True)
    yield from encode_pieces(contexts, texts, vocab)


def encode_pieces(
  contexts: Sequence[str], texts: Sequence[str], vocab: vocabs.Vocab
) -> list[list[int]]:
  """The ids of pieces of a text.

  Args:
    contexts: the characters before each piece.
    texts: the pieces.
    vocab: the tokenizer.
  """
  heads = vocab.encode_batch(contexts)
  whole = vocab.encode_batch([
    context + text for context, text in zip(contexts, texts, strict=True)
  ])
  for head, ids in zip(heads, whole, strict=True):
    if ids[: len(head)] != head:
      raise AssertionError('a cut that was accepted changes the ids')
  return [ids[len(h) :] for h, ids in zip(heads, whole, strict=True)]


class Piece(NamedTuple):
  """A piece of a text, and the characters before it (CONTEXT of them)."""

  context: str
  text: str


def pieces(chunks: Iterable[str], vocab: vocabs.Vocab) -> Iterator[Piece]:
  """Cuts a text where the cut does not change the ids.

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
        # Rejected candidates are not tested a second time.
        tried += PIECE
        continue
      yield Piece(context, text[:cut])
      context, text, tried = text[max(0, cut - CONTEXT) : cut], text[cut:], 0
  if text:
    yield Piece(context, text)


def _find_cut(text: str, near: int, vocab: vocabs.Vocab) -> int | None:
  """The last accepted candidate before `near`; None if there is none."""
  first = max(CONTEXT, near - PIECE // 2)
  for kind in (*_BORDERS, *_INSIDE):
    # From the end, so that pieces are about as long as they should be.
    candidates = [m.start() for m in kind.finditer(text, first, near)]
    for at in reversed(candidates[-TRIES:]):
      if kind in _INSIDE and _is_in_a_run(text, at):
        continue
      if _is_unnoticed(text, at, vocab):
        return at
  return None


def _is_in_a_run(text: str, at: int) -> bool:
  """Whether the window on one side is a run of the same few characters."""
  return any(
    (period := side.find(side[:CONTEXT], 1)) > 0
    and side[period:] == side[:-period]
    for side in (text[max(0, at - WINDOW) : at], text[at : at + WINDOW])
  )


def _is_unnoticed(text: str, at: int, vocab: vocabs.Vocab) -> bool:
  """Whether a cut at a place leaves the ids of the window as they are."""
  left, right = text[max(0, at - WINDOW) : at], text[at : at + WINDOW]
  context = left[-CONTEXT:]
  whole, before, head, after = vocab.encode_batch([
    left + right,
    left,
    context,
    context + right,
  ])
  return after[: len(head)] == head and whole == before + after[len(head) :]
