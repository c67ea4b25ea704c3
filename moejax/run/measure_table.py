"""Rows of measures as tables on a terminal."""

import functools
from collections.abc import Callable
from typing import Any

from moejax.analysis import MEASURES
from moejax.analysis.measure import Rows
from moejax.core import errors
from moejax.run import restore

# Columns that the name of a row has already.
_NAMES = ('step', 'tokens_seen', 'layer', 'domain', 'from', 'to')
SHOWN = 8  # tokens of a list


def for_table(workdir: str, name: str, rows: Rows) -> Rows:
  """Rows as a terminal shows them.

  A mean has half its interval behind it. Lists are left out, but for the first
  tokens of a list of tokens.

  Example:
    {'step': 10, 'topk': 0.5, 'topk_low': 0.4, 'topk_high': 0.6, 'load': [1, 2]}
    is {'topk': '0.500 ±0.100'}

  Args:
    workdir: of the run, for its vocabulary.
    name: of the measure.
    rows: its rows.
  """
  if MEASURES[name].needs == 'counts':
    return rows
  # Opening the vocabulary takes long, and most rows have no tokens.
  texts = functools.cache(lambda: _texts(workdir))
  return {
    row: _shown(columns, lambda token: texts()(token))
    for row, columns in rows.items()
  }


def _texts(workdir: str) -> Callable[[int], str]:
  """The text of a token in quotes; its id if the vocabulary cannot be read."""
  try:
    decode = restore.run_of(workdir).data.vocab.decode
    decode([0])
  except errors.InputError:
    return lambda token: f'id {token}'
  return lambda token: repr(decode([token]))


def _shown(
  columns: dict[str, Any], text: Callable[[int], str]
) -> dict[str, Any]:
  """The columns of one row; `text` gives that of a token."""
  shown = {}
  for column, value in columns.items():
    if column in _NAMES or column.endswith(('_low', '_high')):
      continue
    if isinstance(value, list):
      if column == 'tokens':
        shown[column] = ' '.join(text(token) for token, *_ in value[:SHOWN])
      continue
    low, high = (columns.get(f'{column}_{end}') for end in ('low', 'high'))
    if value is not None and low is not None and high is not None:
      value = f'{value:.3f} ±{(high - low) / 2:.3f}'
    shown[column] = value
  return shown
