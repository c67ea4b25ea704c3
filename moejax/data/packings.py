"""PACKINGS: how documents become rows of L tokens.

To add a packing, write a dataclass with the methods of `Packing` and add a line
to PACKINGS. Every packing keeps all tokens: each is a target exactly once.
"""

import bisect
import dataclasses
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from moejax.core import fields
from moejax.data import features

Documents = Iterable[np.ndarray | Iterator[np.ndarray]]
Blocks = Iterator[tuple[features.Rows, features.Position]]


class Packing(Protocol):
  """A way of packing; a frozen dataclass whose fields are its config keys."""

  __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

  def identity(self) -> dict[str, Any]:
    """The part of a cache's spec that names the packing, as JSON values."""

  def pack(
    self,
    documents: Documents,
    length: int,
    *,
    rows_per_block: int,
    start: features.Position,
  ) -> Blocks:
    """Packs documents into blocks of rows; arguments as `features.pack`."""


@dataclasses.dataclass(frozen=True)
class Sequential:
  """Documents end to end, cut every L tokens: `features.pack`.

  Every row but the last is full. A document is cut wherever a row ends.
  """

  def identity(self) -> dict[str, Any]:
    # Empty, so that caches keep the names they had before there was a choice.
    return {}

  def pack(
    self,
    documents: Documents,
    length: int,
    *,
    rows_per_block: int,
    start: features.Position,
  ) -> Blocks:
    return features.pack(
      documents, length, rows_per_block=rows_per_block, start=start
    )


@dataclasses.dataclass(frozen=True)
class BestFit(fields.Checked):
  """Best-fit decreasing: no document that fits into a row is cut.

  Source: Ding et al., 2024 (arXiv 2404.10830), section 3. A document longer
  than L is first cut into pieces of L tokens and a rest. Pieces are then placed
  from the longest to the shortest, each into the row with the least space that
  holds it, or into a new row. A row is padded behind its last piece.

  The text is packed in windows, one by one, so memory does not grow with it. A
  window ends at the first piece with which it has `window_rows` times L tokens.

  Example, L=6:
    documents  [7, 2]  [5, 8, 4, 1]  [3, 3, 3, 1]
    target     [5, 8, 4, 1, 7, 2]  [3, 3, 3, 1, 0, 0]
    segment    [1, 1, 1, 1, 2, 2]  [1, 1, 1, 1, 0, 0]

  Attributes:
    window_rows: length of a window, in rows.
  """

  window_rows: int = fields.number(1024, at_least=1)

  def identity(self) -> dict[str, Any]:
    return {'packing': {'name': 'best_fit', **dataclasses.asdict(self)}}

  def pack(
    self,
    documents: Documents,
    length: int,
    *,
    rows_per_block: int,
    start: features.Position,
  ) -> Blocks:
    """Packs documents into blocks of rows.

    The position after a block is the beginning of the window of its last row,
    and the rows of this window so far. To go on from it, the window is packed
    a second time.
    """
    block: list[list[np.ndarray]] = []
    skip, after = start.rows, start
    for window in _windows(documents, length, self.window_rows, start):
      rows = best_fit([len(piece) for piece in window.pieces], length)
      for number, members in enumerate(rows[skip:], skip + 1):
        block.append([window.pieces[member] for member in members])
        after = window.start._replace(rows=number)
        if number == len(rows):
          after = window.stop
        if len(block) == rows_per_block:
          yield _filled(block, length), after
          block = []
      skip = 0
    if block:
      yield _filled(block, length), after


PACKINGS: Mapping[str, type] = {
  'sequential': Sequential,
  'best_fit': BestFit,
}


class _Window(NamedTuple):
  """Some pieces in the order of the text, with the positions around them."""

  pieces: list[np.ndarray]
  start: features.Position
  stop: features.Position


def _windows(
  documents: Documents, length: int, rows: int, start: features.Position
) -> Iterator[_Window]:
  """Cuts a text into pieces of at most L tokens, and these into windows."""
  done, offset, cut = start.documents, start.offset, start.cut
  first = start._replace(rows=0)
  pieces: list[np.ndarray] = []
  num_tokens = 0
  for document in documents:
    used, offset = offset, 0
    for piece in _pieces(document, length, used):
      if num_tokens >= rows * length:
        here = features.Position(done, used, cut=cut)
        yield _Window(pieces, first, here)
        pieces, num_tokens, first = [], 0, here
      pieces.append(piece)
      used += len(piece)
      num_tokens += len(piece)
    done += 1
    cut += used > length
  if pieces:
    yield _Window(pieces, first, features.Position(done, 0, cut=cut))


def _pieces(
  document: np.ndarray | Iterator[np.ndarray], length: int, skip: int
) -> Iterator[np.ndarray]:
  """A document in pieces of L tokens and a rest, without its first tokens."""
  held = np.zeros(0, np.int32)
  for array, _, _ in features.arrays(document):
    passed = min(skip, len(array))
    skip -= passed
    held = np.concatenate([held, array[passed:]])
    whole = len(held) - len(held) % length
    for at in range(0, whole, length):
      yield held[at : at + length]
    held = held[whole:]
  if len(held):
    yield held


def best_fit(sizes: Sequence[int], length: int) -> list[list[int]]:
  """Places pieces into rows, from the longest to the shortest.

  Each goes into the row with the least space that holds it; of several, into
  the one opened first. Of pieces of equal size the earlier is placed first. It
  takes time N log N.

  Example, length=10:
    sizes  [4, 7, 3, 6, 10]
    rows   [[4], [1, 2], [3, 0]]

  Args:
    sizes: tokens of each piece, 1 to `length`.
    length: tokens in a row.

  Returns:
    The numbers of the pieces of each row, in the order they were placed.
  """
  rows: list[list[int]] = []
  spaces: list[int] = []  # that some row has left, ascending, each once
  rows_with: dict[int, list[int]] = {}  # heaps of rows, by the space left
  for number in sorted(range(len(sizes)), key=lambda n: -sizes[n]):
    size = sizes[number]
    at = bisect.bisect_left(spaces, size)
    if at == len(spaces):
      row, space = len(rows), length
      rows.append([])
    else:
      space = spaces[at]
      row = heapq.heappop(rows_with[space])
      if not rows_with[space]:
        del rows_with[space], spaces[at]
    rows[row].append(number)
    left = space - size
    if left:
      if left not in rows_with:
        bisect.insort(spaces, left)
      heapq.heappush(rows_with.setdefault(left, []), row)
  return rows


def _filled(block: list[list[np.ndarray]], length: int) -> features.Rows:
  """Rows of pieces as arrays; every piece is a segment."""
  target_NL = np.zeros((len(block), length), np.int32)
  segment_NL = np.zeros((len(block), length), np.int32)
  for target_L, segment_L, pieces in zip(
    target_NL, segment_NL, block, strict=True
  ):
    at = 0
    for segment, piece in enumerate(pieces, 1):
      target_L[at : at + len(piece)] = piece
      segment_L[at : at + len(piece)] = segment
      at += len(piece)
  return features.Rows(target_NL, segment_NL)
