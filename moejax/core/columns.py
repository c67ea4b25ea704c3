"""Rows of text cells as aligned lines, laid out by rich."""

import io
from collections.abc import Collection, Sequence

import rich.box
from rich.table import Table
from rich.text import Text

from moejax.core.console import Console

WIDE = 100_000  # columns of the console, so that no cell is wrapped


def aligned(
  rows: Sequence[Sequence[str]], left: Collection[int] = (0,)
) -> list[str]:
  """Lines with two spaces between columns.

  Args:
    rows: cells; every row has the same number of them.
    left: indices of the columns that are flush left; the others are flush
      right.

  Example, [['validation', 'loss'], ['code', '2.5']]:
    validation  loss
    code         2.5
  """
  table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
  table.collapse_padding = True
  return _lines(table, rows, left)


def markdown(
  rows: Sequence[Sequence[str]], left: Collection[int] = (0,)
) -> list[str]:
  """Lines of a Markdown table that can be read unrendered too.

  Args:
    rows: cells, of which the first row is the header.
    left: as in `aligned`.

  Example:
    | run    | bits/byte |
    |:-------|----------:|
    | switch |     2.741 |
  """
  table = Table(box=rich.box.MARKDOWN, show_header=False)
  top, *lines = _lines(table, rows, left)
  rules = [
    f':{"-" * (len(cell) - 1)}' if i in left else f'{"-" * (len(cell) - 1)}:'
    for i, cell in enumerate(lines[0].split('|')[1:-1])
  ]
  return [top, f'|{"|".join(rules)}|', *lines]


def _lines(
  table: Table, rows: Sequence[Sequence[str]], left: Collection[int]
) -> list[str]:
  for i in range(len(rows[0])):
    table.add_column(justify='left' if i in left else 'right', no_wrap=True)
  for row in rows:
    table.add_row(*map(Text, row))
  text = io.StringIO()
  Console(file=text, width=WIDE).print(table)
  lines = [line.rstrip() for line in text.getvalue().splitlines()]
  # rich puts blank lines around a table.
  return [line for line in lines if line]
