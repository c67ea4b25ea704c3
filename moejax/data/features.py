"""Packs documents into rows of fixed length, and expands rows into a batch.

A stored row is two arrays, `target` and `segment`; `expand` derives the rest of
a `Batch` from them. Only numpy is needed, so a machine without TensorFlow can
train from packed rows.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from moejax.data import batch


class Rows(NamedTuple):
  """N packed rows: target_NL, and segment_NL which is 0 in padding.

  A target without a loss is stored as its complement, ~id, which is negative:
  the prompts of conversations are (`chat`).
  """

  target_NL: np.ndarray
  segment_NL: np.ndarray


class Position(NamedTuple):
  """The position of a packer in the text, from which it can be resumed.

  Attributes:
    documents: documents that have been packed whole.
    offset: tokens of the next document that have been packed.
    rows: rows behind these tokens that have been made; 0 if a packer makes
      rows in the order of the text.
    cut: those of the documents that are in more than one row.
  """

  documents: int = 0
  offset: int = 0
  rows: int = 0
  cut: int = 0


def row_dtype(
  length: int, vocab_size: int, *, masked: bool = False
) -> np.dtype:
  """The record of one row on disk: its targets, then its segments.

  Args:
    length: L.
    vocab_size: larger than all ids.
    masked: whether some targets have no loss, so that numbers have a sign.
  """
  return np.dtype([
    ('target', '<i4' if masked else _unsigned(vocab_size - 1), (length,)),
    ('segment', _unsigned(length), (length,)),
  ])


def records(rows: Rows, dtype: np.dtype) -> bytes:
  """Rows as they are on disk, with the record of `row_dtype`."""
  record_N = np.zeros(len(rows.target_NL), dtype)
  record_N['target'], record_N['segment'] = rows
  return record_N.tobytes()


def ids(target_NL: np.ndarray) -> np.ndarray:
  """The ids of stored targets, with a loss or without."""
  return np.where(target_NL < 0, ~target_NL, target_NL)


def _unsigned(largest: int) -> str:
  return '<u2' if largest < 2**16 else '<u4'


def pack(
  documents: Iterable[np.ndarray | Iterator[np.ndarray]],
  length: int,
  *,
  rows_per_block: int = 1024,
  start: Position = Position(),  # noqa: B008 (a tuple of integers)
) -> Iterator[tuple[Rows, Position]]:
  """Packs documents into rows of length L without dropping a token.

  Documents are laid end to end and cut every L tokens, so every row but the
  last is full. A document that is cut continues in the next row as a new
  segment. Each token is a target exactly once.

  Example, L=6 (`expand` derives token and position):
    documents  [7, 2]  [5, 8, 1]
    target     [7, 2, 5, 8, 1, 0]
    segment    [1, 1, 2, 2, 2, 0]
    token      [0, 7, 0, 5, 8, 0]
    position   [0, 1, 0, 1, 2, 0]

  Example of a cut, L=3:
    documents  [7, 2]  [5, 8, 1]
    target     [7, 2, 5]  [8, 1, 0]
    segment    [1, 1, 2]  [1, 1, 0]

  Args:
    documents: arrays of token ids, each ending in EOS. A document that is too
      long for one array is an iterator of several.
    length: L.
    rows_per_block: rows of every block but the last.
    start: the position to resume from; `documents` then begins with the
      document that `start.offset` lies in.

  Yields:
    Blocks of rows, each with the position after it. Only the last block may
    have fewer rows, and only its last row may have padding.
  """
  room = rows_per_block * length
  pieces, held = [], 0
  done, used, _, cut = start
  for document in documents:
    skip = used
    # The rest of a document that was cut is cut, however short it is.
    fits = skip if skip else length - held % length
    for array, begins, ends in arrays(document):
      at = min(skip, len(array))
      skip -= at
      # Pieces are cut to the room left in the block, so each token is copied
      # once, however long its document is.
      while at < len(array):
        piece = array[at : at + room - held]
        pieces.append((piece, begins and not at))
        at += len(piece)
        used += len(piece)
        held += len(piece)
        if held == room:
          after = Position(done, used, cut=cut)
          if ends and at == len(array):
            after = Position(done + 1, cut=cut + (used > fits))
          yield _fold(*_join(pieces), length), after
          pieces, held = [], 0
    done, used, cut = done + 1, 0, cut + (used > fits)
  if held:
    flat, first = _join(pieces)
    padding = -len(flat) % length
    rows = _fold(
      np.pad(flat, (0, padding)), np.pad(first, (0, padding)), length
    )
    if padding:
      rows.segment_NL[-1, -padding:] = 0
    yield rows, Position(done, cut=cut)


def arrays(
  document: np.ndarray | Iterator[np.ndarray],
) -> Iterator[tuple[np.ndarray, bool, bool]]:
  """(array, whether it is the first, whether it is the last) of a document."""
  arrays = iter([document] if isinstance(document, np.ndarray) else document)
  begins, array = True, next(arrays, None)
  while array is not None:
    after = next(arrays, None)
    yield array, begins, after is None
    begins, array = False, after


def _join(
  pieces: list[tuple[np.ndarray, bool]],
) -> tuple[np.ndarray, np.ndarray]:
  """All tokens end to end, and a mask of those that begin a document."""
  flat = np.concatenate([piece for piece, _ in pieces])
  first = np.zeros(len(flat), bool)
  at = 0
  for piece, begins in pieces:
    first[at] = begins
    at += len(piece)
  return flat, first


def _fold(flat: np.ndarray, first: np.ndarray, length: int) -> Rows:
  """Cuts the tokens into rows and numbers the segments of each from 1."""
  first_NL = first.reshape(-1, length).copy()
  first_NL[:, 0] = True
  return Rows(flat.reshape(-1, length), np.cumsum(first_NL, axis=1))


def expand(
  target_BL: np.ndarray,
  segment_BL: np.ndarray,
  first_id: int | np.ndarray = 0,
) -> batch.Batch:
  """The batch of some rows; see the example in `pack`.

  The first token of a segment is `first_id`, since nothing precedes it; every
  other token is the target before it. Padding is 0.

  Args:
    target_BL: targets; one without a loss is its complement, see `Rows`.
    segment_BL: 0 in padding.
    first_id: one id, or one for each row, [B, 1].
  """
  stored_BL = np.asarray(target_BL).astype(np.int32)
  target_BL = ids(stored_BL)
  segment_BL = np.asarray(segment_BL).astype(np.int32)
  before_BL = np.pad(segment_BL, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
  first_BL = segment_BL != before_BL
  shifted_BL = np.pad(target_BL, ((0, 0), (1, 0)))[:, :-1]
  real_BL = segment_BL != 0
  index_BL = np.broadcast_to(
    np.arange(target_BL.shape[1], dtype=np.int32), target_BL.shape
  )
  start_BL = np.maximum.accumulate(np.where(first_BL, index_BL, 0), axis=1)
  return batch.Batch(
    token_BL=np.where(real_BL, np.where(first_BL, first_id, shifted_BL), 0),
    target_BL=target_BL,
    weight_BL=(real_BL & (stored_BL >= 0)).astype(np.float32),
    position_BL=np.where(real_BL, index_BL - start_BL, 0),
    segment_BL=segment_BL,
  )
