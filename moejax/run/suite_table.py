"""The table of a suite: tasks as rows; runs, tests and papers as columns."""

from collections.abc import Mapping, Sequence

import numpy as np

from moejax.core import columns, errors, table
from moejax.evals import paired
from moejax.evals.published import PUBLISHED, Published
from moejax.evals.suite import NLL, PERPLEXITY, Result
from moejax.run.suites import Scored

NOT_SHARES = (NLL, PERPLEXITY)
MARK = '†'  # behind the title of a published column
MEAN = 'mean'
PASS = 'pass@'  # metrics of programs: pass@1, pass@10, ...


def beside(suite: str, names: str, tasks: Sequence[str]) -> list[Published]:
  """The published columns to show.

  Args:
    suite: the suite.
    names: 'default', 'all', 'none', or names in PUBLISHED, joined by commas.
    tasks: the rows of the table; columns without any of them are left out
      unless they are named.

  Raises:
    InputError: a column is not known; the message has the nearest.
  """
  known = PUBLISHED.get(suite, {})
  if names == 'none':
    return []
  if names in ('default', 'all'):
    return [
      column
      for column in known.values()
      if (column.shown or names == 'all') and set(tasks) & set(column.scores)
    ]
  if not known:
    raise errors.InputError(
      f'--published={names}: no paper has printed scores of suite {suite!r}; '
      f'suites with scores: {", ".join(PUBLISHED)}'
    )
  return [table.lookup('published column', known, n) for n in names.split(',')]


def lines(
  scored: Sequence[Scored], published: Sequence[Published] = ()
) -> list[str]:
  """The table and its notes, as lines of Markdown.

  Scores are in percent with their standard errors, except for `nll` (nats) and
  `perplexity`. Behind every run but the first is p, the probability of such a
  difference to the first run if both were equally good.
  """
  first, *others = scored
  head = ['task', 'metric', 'shots', 'items', _title(first)]
  for other in others:
    head += [_title(other), 'p']
  head += [f'{column.title} {MARK}' for column in published]
  body = [
    [
      name,
      result.metric,
      str(result.shots),
      str(result.items),
      _cell(result),
      *(
        text
        for other in others
        for text in (
          _cell(other.results[name]),
          _p(result, other.results[name]),
        )
      ),
      *(_number(column.scores.get(name)) for column in published),
    ]
    for name, result in first.results.items()
  ]
  if len(body) > 1:
    body.append(_mean_row(scored, published))
  drawn = columns.markdown([head, *body], left=(0, 1))
  return [*drawn, '', *_notes(scored, published)]


def _title(scored: Scored) -> str:
  if scored.step is None:
    return scored.workdir
  return f'{scored.workdir} step {scored.step}'


def _cell(result: Result, metric: str = '') -> str:
  """A metric with its standard error; by default the one that counts."""
  metric = metric or result.metric
  scale, digits = (1, 3) if metric in NOT_SHARES else (100, 1)
  text = f'{scale * result.means[metric]:.{digits}f}'
  error = result.errors[metric]
  if error is None:
    return text
  return f'{text} ± {scale * error:.{digits}f}'


def _number(score: float | None) -> str:
  return '-' if score is None else f'{score:.1f}'


def _p(first: Result, second: Result) -> str:
  compared = paired.compare(first, second)
  if compared is None:
    return '-'
  return '<0.001' if compared.p < 0.001 else f'{compared.p:.3f}'


def _mean_row(
  scored: Sequence[Scored], published: Sequence[Published]
) -> list[str]:
  """The mean over tasks whose metric is a share; '-' where one is missing."""
  names = [
    name
    for name, result in scored[0].results.items()
    if result.metric not in NOT_SHARES
  ]

  def mean(scores: Sequence[float | None]) -> str:
    known = [x for x in scores if x is not None]
    return _number(
      float(np.mean(known)) if known and len(known) == len(scores) else None
    )

  def own(one: Scored) -> str:
    return mean([100 * one.results[name].score for name in names])

  row = [MEAN, '', '', '', own(scored[0])]
  for other in scored[1:]:
    row += [own(other), '']
  return [
    *row,
    *(mean([column.scores.get(n) for n in names]) for column in published),
  ]


def _drawn(name: str, scored: Sequence[Scored]) -> str:
  """A line on the samples of a task and their pass@k; '' for greedy text."""
  first = scored[0].results[name]
  if not first.temperature:
    return ''
  times = 'sample' if first.samples == 1 else 'samples'
  line = (
    f'{name}: {first.samples} {times} of each prompt at temperature '
    f'{first.temperature:g}'
  )
  for metric in first.means:
    if metric.startswith(PASS) and metric != first.metric:
      shown = [_cell(one.results[name], metric) for one in scored]
      line += f'; {metric} {", ".join(shown)}'
  return f'{line}.'


def _notes(
  scored: Sequence[Scored], published: Sequence[Published]
) -> list[str]:
  notes = []
  if published:
    sources: Mapping[str, None] = dict.fromkeys(c.source for c in published)
    notes.append(
      f'{MARK} as published, not measured here: {"; ".join(sources)}.'
    )
  if len(scored) > 1:
    notes.append(
      'p: paired test against the first run, by the exact test of McNemar for '
      'values of 0 and 1, else by bootstrap.'
    )
  for one in scored:
    for name, result in one.results.items():
      if result.cut:
        notes.append(
          f'{name}, {one.workdir}: {result.cut} texts were longer than the '
          "model's context and were cut from the left."
        )
  notes += [
    line
    for name, result in scored[0].results.items()
    if (line := _drawn(name, scored))
  ]
  for name, result in scored[0].results.items():
    if result.left_out:
      notes.append(f'{name}: {result.left_out} rows were not asked.')
    if result.note:
      notes.append(f'{name}: {result.note}')
  return notes
