"""The table and the picture of a sweep.

Runs that differ in their seed alone are one row: the mean ± the standard
deviation over the seeds (of a sample: n - 1), and how many there were. Example:

  | run    |     bits/byte | n | load max/mean | dead | dropped | tokens/s |
  | :----- | ------------: | -: | ------------: | ---: | ------: | -------: |
  | switch | 2.741 ± 0.012 | 3 |          1.84 | 0.0% |    1.3% |    1,913 |
"""

import collections
import dataclasses
import pathlib
import statistics
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from moejax.core import errors, files
from moejax.sweep import results as results_lib
from moejax.sweep.results import Result

BEGIN, END = '<!-- begin sweep {} -->', '<!-- end sweep {} -->'
LONGEST_NOTE = 160
NONE = '-'

# header: the field of Result, and how it is printed
COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
  'load max/mean': ('load_max', '{:.2f}'.format),
  'dead': ('dead', '{:.1%}'.format),
  'dropped': ('dropped', '{:.1%}'.format),
  'tokens/s': ('tokens_per_s', '{:,.0f}'.format),
  'active': ('active', lambda x: f'{x / 1e6:.2f}M'),
  'total': ('total', lambda x: f'{x / 1e6:.2f}M'),
}
WHAT = {'bits_per_byte': 'bits/byte', 'loss': 'loss'}


@dataclasses.dataclass(frozen=True)
class Row:
  """The runs of one group; means are over those that are finished.

  Attributes:
    name: of the group.
    num: how many are finished.
    score: bits per byte, or the loss where there is no text.
    spread: its standard deviation; None for fewer than two.
    values: the other numbers, by field of Result.
    note: what is not finished, and why.
  """

  name: str
  num: int
  score: float | None
  spread: float | None
  values: dict[str, float | None]
  note: str


def measure(results: Sequence[Result]) -> str:
  """The field of Result to compare by: bits per byte where there is text."""
  finished = [r for r in results if r.status == results_lib.FINISHED]
  has_text = all(r.bits_per_byte is not None for r in finished)
  return 'bits_per_byte' if has_text else 'loss'


def rows(results: Sequence[Result]) -> list[Row]:
  """A row for each group, best first, those without a score last."""
  groups = collections.defaultdict(list)
  for result in results:
    groups[result.group].append(result)
  by = measure(results)
  found = [_row(name, group, by) for name, group in groups.items()]
  return sorted(found, key=lambda row: (row.score is None, row.score or 0))


def _row(name: str, group: Sequence[Result], by: str) -> Row:
  finished = [r for r in group if r.status == results_lib.FINISHED]
  scores = [getattr(r, by) for r in finished]
  return Row(
    name=name,
    num=len(finished),
    score=statistics.fmean(scores) if scores else None,
    spread=statistics.stdev(scores) if len(scores) > 1 else None,
    values={
      field: results_lib.mean([getattr(r, field) for r in finished])
      for field, _ in COLUMNS.values()
    },
    note=_note(group),
  )


def _note(group: Sequence[Result]) -> str:
  """Of each run that is not finished how it stands, said once if the same."""
  parts = collections.defaultdict(list)
  for result in group:
    if result.status != results_lib.FINISHED:
      text = ': '.join(filter(None, (result.status, result.note)))
      parts[text].append(str(result.seed))
  if len(group) == 1:
    return ''.join(parts)
  return '; '.join(
    f'seed {", ".join(seeds)} {text}' for text, seeds in parts.items()
  )


def markdown(found: Sequence[Row], by: str) -> str:
  """The rows as a table that can be read unrendered too."""
  header = ['run', WHAT[by], 'n', *COLUMNS, 'note']
  lines = [_cells(row) for row in found]
  if not any(line[-1] for line in lines):
    header, lines = header[:-1], [line[:-1] for line in lines]
  widths = [
    max(map(len, column)) for column in zip(header, *lines, strict=True)
  ]
  left = {0, len(COLUMNS) + 3}  # run and note
  rule = [
    ':' + '-' * (max(w, 2) - 1) if i in left else '-' * (max(w, 2) - 1) + ':'
    for i, w in enumerate(widths)
  ]
  text = ''
  for line in (header, rule, *lines):
    cells = [
      cell.ljust(max(w, 2)) if i in left else cell.rjust(max(w, 2))
      for i, (cell, w) in enumerate(zip(line, widths, strict=True))
    ]
    text += f'| {" | ".join(cells)} |\n'
  return text


def _cells(row: Row) -> list[str]:
  score = NONE if row.score is None else f'{row.score:.3f}'
  if row.spread is not None:
    score += f' ± {row.spread:.3f}'
  values = [
    NONE if row.values[field] is None else form(row.values[field])
    for field, form in COLUMNS.values()
  ]
  note = ' '.join(row.note.split()).replace('|', '\\|')
  if len(note) > LONGEST_NOTE:
    note = note[:LONGEST_NOTE] + '…'
  return [row.name, score, str(row.num), *values, note]


def caption(results: Sequence[Result], what: str) -> str:
  """What the columns are, in a paragraph.

  Args:
    results: all runs.
    what: a sentence or two on what was trained.
  """
  finished = [r for r in results if r.status == results_lib.FINISHED]
  domains = sorted({name for r in finished for name in r.domains})
  together = sorted({r.processes for r in finished if r.processes})
  sharing = 'each run had the machine to itself'
  if together[-1:] > [1]:
    most = together[-1]
    sharing = f'up to {most} runs at a time shared the machine'
  by = measure(results)
  text = (
    f'{len(finished)} of {len(results)} runs are finished. {what} {WHAT[by]}: '
    f'the mean over the validation sets ({", ".join(domains) or "none yet"}), '
    '± the standard deviation over n seeds (n - 1). Load max/mean (of the '
    'worst layer), dead experts and dropped assignments: training batches, the '
    'mean of the last tenth of what was logged. tokens/s: the median of the '
    f'logged training steps; {sharing}. Active and total parameters: with '
    'embeddings.'
  )
  return textwrap.fill(' '.join(text.split()), 80) + '\n'


def check_place(path: pathlib.Path, name: str) -> None:
  """Raises InputError if a file has no place for the table of a sweep."""
  if path.exists():
    _split(path, name)


def put(path: pathlib.Path, name: str, text: str) -> None:
  """Puts text between a file's two marker comments; the rest stays.

  A file that is not there is made. Example, of the sweep `routers`:
    # Routers                           # Routers
    <!-- begin sweep routers -->        <!-- begin sweep routers -->
    what was here            becomes    text
    <!-- end sweep routers -->          <!-- end sweep routers -->
    More.                               More.

  Raises:
    InputError: the file has not both markers, once and in this order.
  """
  before, after = f'# {name}\n\n', '\n'
  if path.exists():
    before, after = _split(path, name)
  inside = f'{BEGIN.format(name)}\n{text.strip()}\n{END.format(name)}'
  files.atomic_write_text(path, before + inside + after)


def _split(path: pathlib.Path, name: str) -> tuple[str, str]:
  """What stands before the first marker, and after the second."""
  text = path.read_text(encoding='utf-8')
  begin, end = BEGIN.format(name), END.format(name)
  before, first, rest = text.partition(begin)
  _, second, after = rest.partition(end)
  if not (first and second) or begin in rest or end in after:
    raise errors.InputError(
      f'--out={path} must have the lines {begin} and {end} once, in this '
      'order; the table goes between them'
    )
  return before, after


def plot(found: Sequence[Row], by: str, path: pathlib.Path) -> None:
  """A dot for each row with a score, best on top, and its spread."""
  import matplotlib.figure  # slow to import

  shown = [row for row in found if row.score is not None][::-1]
  figure = matplotlib.figure.Figure(
    figsize=(7, 1.5 + 0.24 * len(shown)), layout='tight'
  )
  axes = figure.subplots()
  axes.errorbar(
    [row.score for row in shown],
    range(len(shown)),
    xerr=[row.spread or 0.0 for row in shown],
    fmt='o',
    capsize=3,
  )
  axes.set_yticks(range(len(shown)), [row.name for row in shown])
  axes.set_xlabel(f'validation {WHAT[by]} (less is better)')
  axes.grid(axis='x', alpha=0.4)
  figure.savefig(path, dpi=120)


def to_json(results: Sequence[Result], found: Sequence[Row]) -> dict[str, Any]:
  """Everything as plain dictionaries."""
  return {
    'rows': [dataclasses.asdict(row) for row in found],
    'runs': [dataclasses.asdict(result) for result in results],
  }
