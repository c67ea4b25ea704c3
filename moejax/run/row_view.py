"""Rows of a batch on a terminal, as the model reads them."""

from collections.abc import Iterator

import numpy as np
import rich.box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moejax.data import batch, preview, vocab

_SHOWN = 3  # tokens on each side of a border in the table
_COLOURS = ('cyan', 'yellow')


def show(view: preview.Preview, vocabulary: vocab.Vocab, console: Console):
  """Prints rows: their text by document, and tokens at the borders.

  Args:
    view: the rows.
    vocabulary: decodes them.
    console: where to.
  """
  console.print(f'{view.origin}:', soft_wrap=True)
  for number, domain in enumerate(view.domains):
    row = batch.Batch(**{
      key: value[number]
      for key, value in view.rows.__dict__.items()
      if key != 'images'
    })
    console.print()
    console.print(_headline(number, domain, row), style='bold', soft_wrap=True)
    for text in documents(row, vocabulary):
      console.print(text)
    console.print(borders(row, vocabulary))


def _headline(number: int, domain: str, row: batch.Batch) -> str:
  length = len(row.target_BL)
  counted = int((row.weight_BL > 0).sum())
  pieces = int(row.segment_BL.max(initial=0))
  return (
    f'row {number + 1}, {domain}: {length} tokens in {pieces} '
    f'document{"s" * (pieces != 1)}, {counted} of them with a loss '
    f'({counted / length:.1%})'
  )


def documents(row: batch.Batch, vocabulary: vocab.Vocab) -> Iterator[Text]:
  """The targets of each document of a row, below a line that names it.

  Text without a loss is dim and stands between ⟦ and ⟧. EOS is shown as <eos>,
  and padding as its length.

  Args:
    row: a batch's fields, each of one row [L].
    vocabulary: decodes the targets.
  """
  segment_L = np.asarray(row.segment_BL)
  for segment in range(1, int(segment_L.max(initial=0)) + 1):
    (index_T,) = np.nonzero(segment_L == segment)
    size = len(index_T)
    text = Text(f'── document {segment}: {size} tokens ', style='bold')
    text.append('─' * 8 + '\n')
    text.append(_targets(row, index_T, vocabulary, segment))
    yield text
  padding = int((segment_L == 0).sum())
  if padding:
    yield Text(f'── padding: {padding} tokens ────────', style='dim')


def _targets(
  row: batch.Batch, index_T: np.ndarray, vocabulary: vocab.Vocab, segment: int
) -> Text:
  """The targets at some positions, in runs of equal weight."""
  text = Text(style=_COLOURS[segment % 2])
  weight_T = np.asarray(row.weight_BL)[index_T]
  starts = np.flatnonzero(np.diff(weight_T, prepend=np.nan))
  for run_T in np.split(index_T, starts[1:]):
    words = _decoded(np.asarray(row.target_BL)[run_T], vocabulary)
    weight = float(row.weight_BL[run_T[0]])
    if not weight:
      text.append(f'⟦{words}⟧', style='dim')
    elif weight != 1:
      text.append(f'⟦{weight:g}: {words}⟧')
    else:
      text.append(words)
  return text


def _decoded(ids_T: np.ndarray, vocabulary: vocab.Vocab) -> str:
  """The text of ids, with EOS visible."""
  pieces, eos = [], vocabulary.eos_id
  ends = np.flatnonzero(ids_T == eos) + 1
  for part_T in np.split(ids_T, ends):
    pieces.append(vocabulary.decode(part_T.tolist()))
    if len(part_T) and part_T[-1] == eos:
      pieces.append('<eos>')
  # A control character, such as ESC, would be a command to the terminal.
  return ''.join(
    c if c.isprintable() or c in '\n\t' else '\N{REPLACEMENT CHARACTER}'
    for c in ''.join(pieces)
  )


def borders(row: batch.Batch, vocabulary: vocab.Vocab) -> Table:
  """What is read and predicted around the borders of documents, by position."""
  table = Table(box=rich.box.SIMPLE_HEAD)
  for name in ('index', 'document', 'position'):
    table.add_column(name, justify='right', no_wrap=True)
  table.add_column('reads')
  table.add_column('predicts')
  table.add_column('loss weight', justify='right', no_wrap=True)
  last = None
  for index in _near_borders(np.asarray(row.segment_BL)):
    if last is not None and index > last + 1:
      table.add_row(*['…'] * 6)
    last = index
    segment = int(row.segment_BL[index])
    cells = (
      ('', '')
      if not segment
      else (
        _token(
          int(row.token_BL[index]), vocabulary, row.position_BL[index] == 0
        ),
        _token(int(row.target_BL[index]), vocabulary),
      )
    )
    table.add_row(
      str(index),
      str(segment) if segment else 'padding',
      str(int(row.position_BL[index])) if segment else '',
      *cells,
      f'{float(row.weight_BL[index]):g}',
    )
  return table


def _near_borders(segment_L: np.ndarray) -> list[int]:
  """The positions next to the beginning, the end and the first borders."""
  (border_N,) = np.nonzero(np.diff(segment_L))
  length = len(segment_L)
  near = {*range(min(_SHOWN, length)), *range(max(0, length - _SHOWN), length)}
  for border in border_N[:2]:
    near |= {*range(border + 1 - _SHOWN, border + 1 + _SHOWN)}
  return sorted(int(i) for i in near if 0 <= i < length)


def _token(token: int, vocabulary: vocab.Vocab, starts: bool = False) -> Text:
  """A token as its id and its text."""
  if token == vocabulary.eos_id:
    name = '<eos>'
  elif starts:
    name = '<start>'
  else:
    name = repr(vocabulary.decode([token]))
  return Text(f'{token} {name}')
