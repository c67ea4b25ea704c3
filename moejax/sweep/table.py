"""The table and the picture of a sweep.

Runs that differ in their seed alone are one row: the mean ± the standard
deviation over the seeds (of a sample: n - 1), and their number. Example:

  | run    |     bits/byte |  n | load max/mean | dead | dropped | tokens/s |
  |:-------|--------------:|---:|--------------:|-----:|--------:|---------:|
  | switch | 2.741 ± 0.012 |  3 |          1.84 | 0.0% |    1.3% |    1,913 |
"""

import collections
import dataclasses
import pathlib
import statistics
import textwrap
from collections.abc import Callable, Sequence

from moejax.core import columns
from moejax.sweep import results as results_lib
from moejax.sweep.results import RunResult

LONGEST_NOTE = 160  # characters of a cell of notes
NONE = '-'

# Header of a column -> the field of RunResult, and how it is printed.
COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
  'load max/mean': ('load_max', '{:.2f}'.format),
  'dead': ('dead', '{:.1%}'.format),
  'dropped': ('dropped', '{:.1%}'.format),
  'tokens/s': ('tokens_per_s', '{:,.0f}'.format),
  'active': ('active', lambda x: f'{x / 1e6:.2f}M'),
  'total': ('total', lambda x: f'{x / 1e6:.2f}M'),
}
SCORES = {'bits_per_byte': 'bits/byte', 'loss': 'loss'}


@dataclasses.dataclass(frozen=True)
class Row:
  """The runs of one group; means are over those that are finished.

  Attributes:
    name: name of the group.
    num: number of finished runs.
    score: bits per byte, or the loss where there is no text.
    spread: standard deviation of the score; None for fewer than two runs.
    values: means of the other numbers, by field of RunResult.
    note: which runs are not finished, and why.
  """

  name: str
  num: int
  score: float | None
  spread: float | None
  values: dict[str, float | None]
  note: str


def _finished(results: Sequence[RunResult]) -> list[RunResult]:
  return [r for r in results if r.status == results_lib.FINISHED]


def measure(results: Sequence[RunResult]) -> str:
  """The field of RunResult to compare by: bits per byte where there is text."""
  texts = [r.bits_per_byte for r in _finished(results)]
  return 'loss' if None in texts else 'bits_per_byte'


def rows(results: Sequence[RunResult]) -> list[Row]:
  """A row for each group, best first, those without a score last."""
  groups = collections.defaultdict(list)
  for result in results:
    groups[result.group].append(result)
  score = measure(results)
  unsorted = [_row(name, group, score) for name, group in groups.items()]
  return sorted(unsorted, key=lambda row: (row.score is None, row.score or 0))


def _row(name: str, group: Sequence[RunResult], score: str) -> Row:
  finished = _finished(group)
  scores = [getattr(result, score) for result in finished]
  return Row(
    name=name,
    num=len(finished),
    score=results_lib.mean(scores),
    spread=statistics.stdev(scores) if len(scores) > 1 else None,
    values={
      field: results_lib.mean([getattr(r, field) for r in finished])
      for field, _ in COLUMNS.values()
    },
    note=_note(group),
  )


def _note(group: Sequence[RunResult]) -> str:
  """States of the runs that are not finished, with the seeds of each state."""
  seeds = collections.defaultdict(list)
  for result in group:
    if result.status != results_lib.FINISHED:
      state = ': '.join(filter(None, (result.status, result.note)))
      seeds[state].append(str(result.seed))
  if len(group) == 1:
    return ''.join(seeds)
  return '; '.join(f'seed {", ".join(n)} {state}' for state, n in seeds.items())


def markdown(rows: Sequence[Row], score: str) -> str:
  """The rows as a Markdown table with aligned columns."""
  lines = [['run', SCORES[score], 'n', *COLUMNS, 'note'], *map(_cells, rows)]
  if not any(row.note for row in rows):
    lines = [line[:-1] for line in lines]
  left = (0, len(COLUMNS) + 3)  # run and note
  return '\n'.join(columns.markdown(lines, left)) + '\n'


def _cells(row: Row) -> list[str]:
  score = NONE if row.score is None else f'{row.score:.3f}'
  if row.spread is not None:
    score += f' ± {row.spread:.3f}'
  values = [
    NONE if (value := row.values[field]) is None else text(value)
    for field, text in COLUMNS.values()
  ]
  note = ' '.join(row.note.split()).replace('|', '\\|')
  if len(note) > LONGEST_NOTE:
    note = note[:LONGEST_NOTE] + '…'
  return [row.name, score, str(row.num), *values, note]


def caption(results: Sequence[RunResult], setting: str) -> str:
  """A paragraph that explains the columns.

  Args:
    results: all runs.
    setting: a sentence or two on what was trained.
  """
  finished = _finished(results)
  domains = sorted({name for r in finished for name in r.domains})
  most = max((r.processes or 1 for r in finished), default=1)
  sharing = 'each run had the machine to itself'
  if most > 1:
    sharing = f'up to {most} runs at a time shared the machine'
  text = (
    f'{len(finished)} of {len(results)} runs are finished. {setting} '
    f'{SCORES[measure(results)]}: the mean over the validation sets '
    f'({", ".join(domains) or "none yet"}), ± the standard deviation over n '
    'seeds (n - 1). Load max/mean (of the worst layer), dead experts and '
    'dropped assignments: training batches, the mean of the last tenth of what '
    'was logged. tokens/s: the median of the logged training steps; '
    f'{sharing}. Active and total parameters: with embeddings.'
  )
  return textwrap.fill(' '.join(text.split()), 80) + '\n'


def plot(rows: Sequence[Row], score: str, path: pathlib.Path) -> None:
  """Draws a dot and its spread for each row with a score, the best on top."""
  import matplotlib.figure  # slow to import

  points = [
    (row.name, row.score, row.spread or 0.0)
    for row in rows[::-1]
    if row.score is not None
  ]
  figure = matplotlib.figure.Figure(
    figsize=(7, 1.5 + 0.24 * len(points)), layout='tight'
  )
  axes = figure.subplots()
  for height, (_, value, spread) in enumerate(points):
    axes.errorbar(value, height, xerr=spread, fmt='o', capsize=3, color='C0')
  axes.set_yticks(range(len(points)), [name for name, *_ in points])
  axes.set_xlabel(f'validation {SCORES[score]} (less is better)')
  axes.grid(axis='x', alpha=0.4)
  figure.savefig(path, dpi=120)
