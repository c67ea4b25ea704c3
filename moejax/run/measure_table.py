"""Rows of measures as tables on a terminal."""

import functools
from collections.abc import Callable
from typing import Any

from moejax.analysis import MEASURES
from moejax.analysis.measure import Rows
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
  decode = functools.cache(lambda: restore.run_of(workdir).data.vocab.decode)
  return {row: _shown(columns, decode) for row, columns in rows.items()}


def _shown(
  columns: dict[str, Any], decode: Callable[[], Callable[[list[int]], str]]
) -> dict[str, Any]:
  """The columns of one row; `decode` gives the vocabulary's method."""
  shown = {}
  for column, value in columns.items():
    if column in _NAMES or column.endswith(('_low', '_high')):
      continue
    if isinstance(value, list):
      if column == 'tokens':
        texts = [decode()([token]) for token, *_ in value[:SHOWN]]
        shown[column] = ' '.join(map(repr, texts))
      continue
    low, high = (columns.get(f'{column}_{end}') for end in ('low', 'high'))
    if value is not None and low is not None and high is not None:
      value = f'{value:.3f} ±{(high - low) / 2:.3f}'
    shown[column] = value
  return shown
