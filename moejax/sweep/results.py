"""Results of a sweep: read from the folders of its runs, and shown as a table.

The result of a run is a dictionary, as it stands in `results.json`; a number
that is not known is None:

  name, group, seed    of the run
  status, note         finished, pruned, failed, interrupted or not run; why,
                       how far
  loss, bits_per_byte  means over the validation sets; without text no bits
  domains              bits per byte of each validation set
  load_max             load of the most loaded expert over the mean load of its
                       layer, in the layer where that is largest
  dead, dropped        shares: of experts that got no token of a batch, and of
                       assignments that were not computed
  tokens_per_s         speed of training, the median over the logged steps
  total, active        numbers of parameters: all, and those one token uses
  tokens, flops        of the whole training
  seconds, processes   wall time from start to report; runs at a time
  chosen_dtype         the type that `model.dtype=auto` stood for; None if the
                       config names one

Runs that differ in their seed alone are one row of the table: the mean ± the
standard deviation over the seeds (of a sample: n - 1), and their number:

  | run    |     bits/byte |  n | load max/mean | dead | dropped | tokens/s |
  |:-------|--------------:|---:|--------------:|-----:|--------:|---------:|
  | switch | 2.741 ± 0.012 |  3 |          1.84 | 0.0% |    1.3% |    1,913 |
"""

import collections
import json
import math
import pathlib
import statistics
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from etils import epath

from moejax.config import Run
from moejax.core import columns, errors, exits, files, log, resume
from moejax.run import found_workdir, report, resources, restore, screen
from moejax.sweep.grid import SweepRun
from moejax.sweep.pool import LOG, Outcome

Result = Mapping[str, Any]
FINISHED, PRUNED, NOT_RUN = 'finished', 'pruned', 'not run'
# Written by a sweep to the folder of a run.
ENDED = found_workdir.ENDED
# Header of a column -> the key of a result, and how it is printed.
COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
  'load max/mean': ('load_max', '{:.2f}'.format),
  'dead': ('dead', '{:.1%}'.format),
  'dropped': ('dropped', '{:.1%}'.format),
  'tokens/s': ('tokens_per_s', '{:,.0f}'.format),
  'active': ('active', lambda x: f'{x / 1e6:.2f}M'),
  'total': ('total', lambda x: f'{x / 1e6:.2f}M'),
}
SCORES = {'bits_per_byte': 'bits/byte', 'loss': 'loss'}  # headers, by key
NOTE = 'note'  # header of the last column
LONGEST_NOTE = 160  # characters of a cell of notes


def record(
  folder: epath.Path,
  run: SweepRun,
  outcome: Outcome,
  processes: int,
  pruned: int | None = None,
) -> None:
  """Writes to the run's folder how a process ended.

  The file has what the other files of a run do not tell:
    {"failed": null, "pruned": null, "seconds": 61.2, "processes": 2}

  Args:
    folder: workdir of the sweep.
    run: the run.
    outcome: how its process ended.
    processes: how many ran at a time.
    pruned: the step of the evaluation after which it was pruned.
  """
  failed = outcome.code not in {exits.DONE, exits.INTERRUPTED}
  before = _ended(folder, run.name).get('seconds', 0.0)
  ended = {
    'failed': outcome.message if failed else None,
    'pruned': pruned,
    'seconds': before + outcome.seconds,
    'processes': processes,
  }
  (folder / run.name).mkdir(parents=True, exist_ok=True)
  files.atomic_write_json(folder / run.name / ENDED, ended)


def _ended(folder: epath.Path, name: str) -> dict[str, Any]:
  path = folder / name / ENDED
  if path.exists():
    return json.loads(path.read_text())
  # Earlier versions had one file for all runs.
  path = folder / 'sweep.json'
  return json.loads(path.read_text()).get(name, {}) if path.exists() else {}


def read(run: SweepRun, config: Run, folder: epath.Path) -> Result:
  """The result of a run with this config, in the workdir of its sweep."""
  ended = _ended(folder, run.name)
  path, steps = folder / run.name / resources.METRICS, config.train.steps
  logged = log.read(path) if path.exists() else []
  reported = report.read(folder / run.name) or {}
  status, note = NOT_RUN, ''
  if reported and reported.get('steps', steps) >= steps:
    status = FINISHED
  elif ended.get('pruned') is not None:
    status, note = PRUNED, f'at step {ended["pruned"]} of {steps}'
  elif ended.get('failed') is not None:
    status, note = 'failed', ended['failed'].removeprefix('error: ')
  elif logged:
    status, note = 'interrupted', f'at step {logged[-1]["step"]} of {steps}'
  domains = reported.get('domains', {})
  bits = {name: row['bits_per_byte'] for name, row in domains.items()}
  speeds = [r[screen.TOKENS_PER_S] for r in logged if screen.TOKENS_PER_S in r]
  return {
    'name': run.name,
    'group': run.group,
    'seed': config.seed,
    'status': status,
    'note': note,
    'loss': _mean([row['loss'] for row in domains.values()]),
    'bits_per_byte': _mean([*bits.values()]),
    'domains': bits,
    'load_max': _at_the_end(logged, 'moe/load_max'),
    'dead': _at_the_end(logged, 'moe/dead_experts'),
    'dropped': _at_the_end(logged, 'moe/dropped'),
    'tokens_per_s': statistics.median(speeds) if speeds else None,
    # Earlier versions kept the numbers of parameters in sweep.json.
    'total': reported.get('total_parameters', ended.get('total')),
    'active': reported.get('active_parameters', ended.get('active')),
    'tokens': steps * config.train.batch_size * config.data.sequence_length,
    'flops': reported.get('training_flops'),
    'seconds': ended.get('seconds'),
    'processes': ended.get('processes'),
    'chosen_dtype': _chosen_dtype(config, folder / run.name),
  }


def _chosen_dtype(config: Run, workdir: epath.Path) -> str | None:
  path = workdir / restore.CONFIG
  if config.model.dtype != resume.AUTO or not path.exists():
    return None
  return json.loads(path.read_text())['model']['dtype']


def _at_the_end(logged: Sequence[Mapping[str, Any]], key: str) -> float | None:
  """The mean over the last tenth, as the routing of one batch is noisy."""
  values = [record[key] for record in logged if key in record]
  return _mean(values[-math.ceil(len(values) / 10) :])


def _mean(values: Sequence[Any]) -> float | None:
  """The mean; None if there are no values, or if one of them is None."""
  return statistics.fmean(values) if values and None not in values else None


def _finished(results: Sequence[Result]) -> list[Result]:
  return [result for result in results if result['status'] == FINISHED]


def unfinished(results: Sequence[Result], folder: epath.Path) -> str:
  """A list of the runs that were begun and are not finished, as Markdown.

  Example:
    Not finished:

    - a-seed=1 failed: no file 'text.txt' (runs/mine/a-seed=1/log.txt)
  """
  cells = unfinished_cells(results, folder)
  lines = [f'- {name} {state} ({log})' for name, state, log in cells]
  return '\n'.join(['', 'Not finished:', '', *lines, '']) if lines else ''


def unfinished_cells(
  results: Sequence[Result], folder: epath.Path
) -> list[tuple[str, str, str]]:
  """Name, state and log of the runs that were begun and are not finished."""
  return [
    (result['name'], _state(result), str(folder / result['name'] / LOG))
    for result in results
    if result['status'] not in {FINISHED, NOT_RUN}
  ]


def searched(
  results: Sequence[Result], runs: Sequence[SweepRun], keys: Collection[str]
) -> str:
  """The values that a search chose, best first, as a Markdown table."""
  lines = searched_cells(results, runs, keys)
  if len(lines) == 1:
    return ''
  return '\n'.join(['', *columns.markdown(lines, left=(0,)), ''])


def searched_cells(
  results: Sequence[Result], runs: Sequence[SweepRun], keys: Collection[str]
) -> list[list[str]]:
  """The head and the rows of the values that a search chose, best first.

  Args:
    results: of all runs.
    runs: all runs, in the same order.
    keys: the searched config keys.
  """
  rows = [
    (
      result['loss'] is None,
      result['loss'] or 0.0,
      [
        result['name'],
        '-' if result['loss'] is None else f'{result["loss"]:.3f}',
        *(run.overrides[key] for key in keys),
      ],
    )
    for result, run in zip(results, runs, strict=True)
    if result['status'] != NOT_RUN
  ]
  return [['run', 'loss', *keys], *(row for *_, row in sorted(rows))]


def _state(result: Result) -> str:
  """Example: 'failed: no file'."""
  note = ' '.join(result['note'].split())
  return ': '.join(filter(None, (result['status'], note)))


class Table:
  """The results of all runs of a sweep, by group.

  Attributes:
    score: key of the number to compare by, bits per byte where there is text.
    rows: a dictionary for each group, best first, those without a score last:
      `name`; `num`, of its finished runs; `score` and its `spread`, None for
      fewer than two runs; `values`, means of the columns by key; `note`, which
      runs are not finished and why.
  """

  def __init__(self, results: Sequence[Result]):
    self._results = results
    texts = [result['bits_per_byte'] for result in _finished(results)]
    self.score = 'loss' if None in texts else 'bits_per_byte'
    groups = collections.defaultdict(list)
    for result in results:
      groups[result['group']].append(result)
    rows = [self._row(name, group) for name, group in groups.items()]
    self.rows = sorted(
      rows, key=lambda r: (r['score'] is None, r['score'] or 0)
    )

  def _row(self, name: str, group: Sequence[Result]) -> Any:
    finished = _finished(group)
    scores = [result[self.score] for result in finished]
    return {
      'name': name,
      'num': len(finished),
      'score': _mean(scores),
      'spread': statistics.stdev(scores) if len(scores) > 1 else None,
      'values': {
        key: _mean([result[key] for result in finished])
        for key, _ in COLUMNS.values()
      },
      'note': _note(group),
    }

  def cells(self) -> tuple[list[str], list[list[str]]]:
    """The head and the rows as texts; notes only if there are any."""
    head = ['run', SCORES[self.score], 'n', *COLUMNS, NOTE]
    lines = [head, *map(_cells, self.rows)]
    if not any(row['note'] for row in self.rows):
      lines = [line[:-1] for line in lines]
    return lines[0], lines[1:]

  def markdown(self) -> str:
    """The rows as a Markdown table with aligned columns."""
    head, rows = self.cells()
    escaped = [[cell.replace('|', '\\|') for cell in row] for row in rows]
    notes = len(COLUMNS) + 3
    return '\n'.join(columns.markdown([head, *escaped], left=(0, notes))) + '\n'

  def caption(self, configs: Sequence[Run]) -> str:
    """A paragraph on what was trained, and what the columns are.

    Args:
      configs: configs of all runs; what they do not agree on is left out.
    """
    finished = _finished(self._results)
    text = f'{len(finished)} of {len(self._results)} runs are finished. '
    lengths = {
      (c.train.steps, c.train.batch_size * c.data.sequence_length)
      for c in configs
    }
    if len(lengths) == 1:
      ((steps, tokens),) = lengths
      text += f'Each trained for {steps:,} steps of {tokens:,} tokens. '
    limits = {c.report.eval_batches for c in configs}
    if len(limits) == 1 and (limit := limits.pop()):
      batches = 'batch' if limit == 1 else f'{limit} batches'
      text += f'Measured on the first {batches} of each validation set. '
    domains = sorted({
      name for result in finished for name in result['domains']
    })
    most = max((result['processes'] or 1 for result in finished), default=1)
    sharing = 'each run had the machine to itself'
    if most > 1:
      sharing = f'up to {most} runs at a time shared the machine'
    text += (
      f'{SCORES[self.score]}: the mean over the validation sets '
      f'({", ".join(domains) or "none yet"}), ± the standard deviation over n '
      'seeds (n - 1). Load max/mean (of the worst layer), dead experts and '
      'dropped assignments: training batches, the mean of the last tenth of '
      'what was logged. tokens/s: the median of the logged training steps; '
      f'{sharing}. Active and total parameters: with embeddings.'
    )
    return textwrap.fill(text, 80) + '\n'

  def plot(self, path: epath.PathLike) -> None:
    """Draws a dot and its spread for each row with a score, best on top."""
    import matplotlib.figure  # slow to import

    rows = [row for row in self.rows[::-1] if row['score'] is not None]
    size = (7, 1.5 + 0.24 * len(rows))
    figure = matplotlib.figure.Figure(figsize=size, layout='tight')
    axes = figure.subplots()
    for y, row in enumerate(rows):
      error = row['spread'] or 0.0
      axes.errorbar(row['score'], y, xerr=error, fmt='o', capsize=3, color='C0')
    axes.set_yticks(range(len(rows)), [row['name'] for row in rows])
    axes.set_xlabel(f'validation {SCORES[self.score]} (less is better)')
    axes.grid(axis='x', alpha=0.4)
    figure.savefig(path, dpi=120)


def _note(group: Sequence[Result]) -> str:
  """States of the runs that are not finished, with the seeds of each state."""
  seeds = collections.defaultdict(list)
  for result in group:
    if result['status'] != FINISHED:
      state = ': '.join(filter(None, (result['status'], result['note'])))
      seeds[state].append(str(result['seed']))
  if len(group) == 1:
    return ''.join(seeds)
  return '; '.join(f'seed {", ".join(n)} {state}' for state, n in seeds.items())


def _cells(row: Mapping[str, Any]) -> list[str]:
  """The cells of a row, `-` where a number is not known."""
  score = '-' if row['score'] is None else f'{row["score"]:.3f}'
  if row['spread'] is not None:
    score += f' ± {row["spread"]:.3f}'
  values = [
    '-' if (value := row['values'][key]) is None else text(value)
    for key, text in COLUMNS.values()
  ]
  note = ' '.join(row['note'].split())
  if len(note) > LONGEST_NOTE:
    note = note[:LONGEST_NOTE] + '…'
  return [row['name'], score, str(row['num']), *values, note]


def in_document(path: pathlib.Path, name: str, table: str) -> str:
  """The text of a Markdown document, with a table between two comments.

  A document that does not exist yet has a heading alone. Example, `routers`:
    # Routers                           # Routers
    <!-- begin sweep routers -->        <!-- begin sweep routers -->
    old table                becomes    new table
    <!-- end sweep routers -->          <!-- end sweep routers -->
    More.                               More.

  Raises:
    InputError: the file lacks one of the two comments, has one of them twice,
      or has them in the wrong order.
  """
  begin, end = f'<!-- begin sweep {name} -->', f'<!-- end sweep {name} -->'
  text = f'# {name}\n\n{begin}{end}\n'
  if path.exists():
    text = path.read_text(encoding='utf-8')
  before, has_begin, rest = text.partition(begin)
  _, has_end, after = rest.partition(end)
  if not (has_begin and has_end) or begin in rest or end in after:
    raise errors.InputError(
      f'--out={path} must have the lines {begin} and {end} once, in this '
      'order; the table goes between them'
    )
  return f'{before}{begin}\n{table.strip()}\n{end}{after}'
