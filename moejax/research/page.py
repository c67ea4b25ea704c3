"""The page of a study: its tables and figure, and the numbers beside it.

A page is docs/studies/NAME.md, written by hand but for the tables, which stand
between two comments each (see `moejax.sweep.results.in_document`):

  <!-- begin sweep table_1 -->
  <!-- end sweep table_1 -->
"""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from moejax.core import columns, command, errors, files
from moejax.sweep import results

SWEEP = 'configs/sweeps/studies.py'
WORKDIR = 'runs/studies'
FOLDER = 'docs/studies'


def flags(doc: str | None) -> argparse.ArgumentParser:
  """The flags that all studies have."""
  parser = command.parser(doc or '')
  parser.add_argument(
    '--sweep', default=SWEEP, help='sweep file (default: %(default)s)'
  )
  parser.add_argument(
    '--workdir', default=WORKDIR, help='of the sweep (default: %(default)s)'
  )
  parser.add_argument(
    '--out',
    default=FOLDER,
    help='folder of the page, its figure and JSON (default: %(default)s)',
  )
  return parser


class Page:
  """Collects what a study found, and writes it.

  Args:
    out: folder of the page.
    name: name of the page without its suffix.
  """

  def __init__(self, out: str, name: str):
    self._folder, self._name = pathlib.Path(out), name
    if not self._folder.is_dir():
      raise errors.InputError(f'--out={out}: there is no folder {out!r}')
    self._tables: dict[str, str] = {}
    self._numbers: dict[str, Any] = {}

  def table(
    self,
    name: str,
    rows: Sequence[Sequence[str]],
    numbers: Any,
    note: str = '',
  ) -> None:
    """Adds a table.

    Args:
      name: of the table, in the comments and in the JSON.
      rows: cells; the first row is the header, the first column is a name. A
        header alone becomes a line that says so.
      numbers: the numbers behind the cells, ready for JSON.
      note: lines below the table.
    """
    lines = ['No run that this table needs is finished.']
    if len(rows) > 1:
      lines = columns.markdown(rows, left=(0,))
    self._tables[name] = '\n'.join([*lines, *(['', note] if note else [])])
    self._numbers[name] = numbers

  def write(self, figure: Any = None) -> list[str]:
    """Writes JSON, figure and tables; returns the tables for the terminal.

    Args:
      figure: a matplotlib figure, or None.

    Raises:
      InputError: the page has no place for a table.
    """
    document = self._folder / f'{self._name}.md'
    for name, text in self._tables.items():
      whole = results.in_document(document, name, text)
      files.atomic_write_text(document, whole)
    numbers = self._folder / f'{self._name}.json'
    files.atomic_write_json(numbers, self._numbers)
    if figure is not None:
      figure.savefig(self._folder / f'{self._name}.png', dpi=120)
    return [f'{name}\n{text}\n' for name, text in self._tables.items()]


def percent(share: float | None) -> str:
  """A share as text; '-' for None."""
  return '-' if share is None else f'{share:.1%}'


def number(value: float | None, digits: int = 3) -> str:
  """A number as text; '-' for None."""
  return '-' if value is None else f'{value:.{digits}f}'


def probability(p: float) -> str:
  """A probability as text; what rounds to 0 is '< 0.0001'."""
  return '< 0.0001' if p < 0.0001 else f'{p:.4f}'


def signed(row: Mapping[str, Any], digits: int = 3) -> str:
  """A difference with its standard error as text: '+0.012 ± 0.004'."""
  if row['difference'] is None:
    return '-'
  text = f'{row["difference"]:+.{digits}f}'
  if row['error'] is not None:
    text += f' ± {row["error"]:.{digits}f}'
  return text
