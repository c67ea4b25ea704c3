"""Rows of values, {row: {name: value}}, as tables on a terminal."""

from collections.abc import Mapping
from typing import Any

import rich.box
from rich.table import Table


def table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
  """A table with a column for each name that has a value in some row.

  Args:
    title: the line above the table.
    rows: the values; see moejax/evals and moejax/analysis.
  """
  shown = Table(
    title=title,
    title_justify='left',
    title_style='',
    box=rich.box.SIMPLE_HEAD,
    padding=0,
    pad_edge=False,
    collapse_padding=True,
  )
  shown.add_column('', overflow='fold')
  names = dict.fromkeys(
    name
    for row in rows.values()
    for name, value in row.items()
    if value is not None
  )
  for name in names:
    is_text = any(isinstance(row.get(name), str) for row in rows.values())
    if is_text:
      shown.add_column(name, overflow='fold')
    else:  # numbers are narrow, so a long name has a line for each word
      words = name.replace('_', '\n')
      shown.add_column(
        words, justify='right', vertical='bottom', overflow='fold'
      )
  for row_name, row in rows.items():
    shown.add_row(row_name, *(cell(row.get(name)) for name in names))
  return shown


def cell(value: Any) -> str:
  """A value as text.

  Example:
    0.12345               '0.123'
    12345                 '12,345'
    None                  '-'
    [[3, 0.41], [0, 0.2]] '3:41% 0:20%', experts and their shares
  """
  if value is None:
    return '-'
  if isinstance(value, float):
    return f'{value:.3f}'
  if isinstance(value, int):
    return f'{value:,}'
  if isinstance(value, list):
    return ' '.join(f'{expert}:{share:.0%}' for expert, share in value)
  return str(value)
