"""Results of an intervention as rows, as lines of a table, and as a picture."""

import fractions
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from moejax.core import columns
from moejax.evals import paired
from moejax.evals.suite import PERPLEXITY, Result

LOSS, MEAN = 'loss', 'mean'
LOG_SPAN = 20  # largest over smallest value from which an axis is logarithmic
HEAD = (
  'value',
  'on',
  'metric',
  'score',
  'bits/byte',
  'difference',
  '95% interval',
)


def rows(measured: Mapping[str, Any], unchanged: str) -> list[dict[str, Any]]:
  """A row for each value and each validation set or benchmark, as JSON.

  A row has these keys, with None where a number is not known:

    value          of the intervention; None for the unchanged model
    number         the same as a number
    on             the validation set or benchmark; `mean` over several sets
    metric         `loss`, in nats per token, for validation sets
    score          the mean of the metric
    bits_per_byte  of validation sets
    difference     of the score to that of the unchanged model
    low, high      its 95% interval by a paired bootstrap over rows or items

  Args:
    measured: by value, the measurements.
    unchanged: the name of the unchanged model among the values.
  """
  shown = []
  first = measured[unchanged]
  # Numbers in their order, as curves are drawn.
  order = lambda value: (value != unchanged, number(value) or 0.0)
  for value in sorted(measured, key=order):
    own = measured[value]
    pairs = [(name, first['sets'][name], x) for name, x in own['sets'].items()]
    lines = [set_row(name, *both) for name, *both in pairs]
    if len(pairs) > 1:
      lines.append(mean_row(lines, pairs))
    lines += [
      _task_row(Result.from_json(first['tasks'][name]), Result.from_json(x))
      for name, x in own['tasks'].items()
      if name in first['tasks']
    ]
    is_first = value == unchanged
    about = {
      'value': None if is_first else value,
      'number': None if is_first else number(value),
    }
    if is_first:
      nothing = dict.fromkeys(('difference', 'low', 'high'))
      lines = [line | nothing for line in lines]
    shown += [about | line for line in lines]
  return shown


def number(value: str) -> float | None:
  """A value such as '1/8' as a number; None if it is none."""
  try:
    return float(fractions.Fraction(value.strip()))
  except (ValueError, ZeroDivisionError):
    return None


def set_row(
  name: str, first: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
  """The row of a validation set; see `rows`.

  Args:
    name: of the set.
    first: measurements of the unchanged model.
    own: those of the changed one.
  """
  first_R2, own_R2 = (np.array(x['rows']).reshape(-1, 2) for x in (first, own))
  ends = paired.interval(own_R2[:, 0] - first_R2[:, 0], own_R2[:, 1])
  return {
    'on': name,
    'metric': LOSS,
    'score': own['loss'],
    'bits_per_byte': own['bits_per_byte'],
    'difference': own['loss'] - first['loss'],
    **_ends(ends),
  }


def mean_row(
  lines: Sequence[Mapping[str, Any]],
  pairs: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]],
) -> dict[str, Any]:
  """The mean over validation sets, which count the same.

  Each row weighs 1 over the tokens of its set, so that a draw of rows from all
  sets has the mean of the sets' losses as its mean.
  """
  difference, weight = [], []
  for _, first, own in pairs:
    first_R2, own_R2 = (
      np.array(x['rows']).reshape(-1, 2) for x in (first, own)
    )
    tokens = max(own_R2[:, 1].sum(), 1)
    difference.append((own_R2[:, 0] - first_R2[:, 0]) / tokens)
    weight.append(own_R2[:, 1] / tokens)
  ends = paired.interval(np.concatenate(difference), np.concatenate(weight))
  bits = [line['bits_per_byte'] for line in lines]
  mean = lambda key: float(np.mean([line[key] for line in lines]))
  return {
    'on': MEAN,
    'metric': LOSS,
    'score': mean('score'),
    'bits_per_byte': None if None in bits else float(np.mean(bits)),
    'difference': mean('difference'),
    **_ends(ends),
  }


def _task_row(first: Result, own: Result) -> dict[str, Any]:
  ends = None
  if own.metric != PERPLEXITY and first.digest == own.digest:
    pairs = np.array([
      (a, b)
      for a, b in zip(
        first.values[own.metric], own.values[own.metric], strict=True
      )
      if a is not None and b is not None
    ]).reshape(-1, 2)
    ends = paired.interval(pairs[:, 1] - pairs[:, 0], np.ones(len(pairs)))
  return {
    'on': own.benchmark,
    'metric': own.metric,
    'score': own.score,
    'bits_per_byte': None,
    'difference': own.score - first.score,
    **_ends(ends),
  }


def _ends(ends: tuple[float, float] | None) -> dict[str, float | None]:
  low, high = ends or (None, None)
  return {'low': low, 'high': high}


def lines(title: str, shown: Sequence[Mapping[str, Any]]) -> list[str]:
  """The rows as an aligned table, the unchanged model first.

  Args:
    title: name of the intervention, which stands before each value.
    shown: of `rows`.
  """
  cells = [
    [
      'unchanged' if row['value'] is None else f'{title}={row["value"]}',
      row['on'],
      row['metric'],
      f'{row["score"]:.4f}',
      _text(row['bits_per_byte'], '.4f'),
      _text(row['difference'], '+.4f'),
      '-' if row['low'] is None else f'{row["low"]:+.4f} to {row["high"]:+.4f}',
    ]
    for row in shown
  ]
  return columns.aligned([[*HEAD], *cells], left=(0, 1, 2))


def _text(value: float | None, form: str) -> str:
  return '-' if value is None else format(value, form)


def draw(
  title: str, shown: Sequence[Mapping[str, Any]], path: epath.PathLike
) -> str:
  """Draws scores over values, and the unchanged model as dashed lines.

  Losses are on the left, scores of benchmarks on the right. Bands are the 95%
  intervals of differences.

  Args:
    title: what the values are.
    shown: of `rows`.
    path: of an SVG or PNG file.

  Returns:
    A line that names the picture, or says that matplotlib is missing.
  """
  if importlib.util.find_spec('matplotlib') is None:
    return "No picture: matplotlib is missing; pip install 'moejax[plot]'."
  import matplotlib.figure  # slow to import

  losses = [row for row in shown if row['metric'] == LOSS]
  tasks = [row for row in shown if row['metric'] != LOSS]
  parts = [
    (part, label)
    for part, label in ((losses, 'loss (nats per token)'), (tasks, 'score'))
    if part
  ]
  size = (6 * len(parts), 4)
  figure = matplotlib.figure.Figure(figsize=size, layout='tight')
  axes = figure.subplots(1, len(parts), squeeze=False)[0]
  for axis, (part, label) in zip(axes, parts, strict=True):
    _draw(axis, part)
    axis.set_xlabel(title)
    axis.set_ylabel(label)
    axis.grid(alpha=0.4)
    axis.legend(fontsize='small')
  figure.savefig(path)
  return f'Picture: {path}'


def _draw(axis: Any, shown: Sequence[Mapping[str, Any]]) -> None:
  """A line for each validation set or benchmark, its interval as a band."""
  values = [*dict.fromkeys(r['value'] for r in shown if r['value'] is not None)]
  numbers = [x for x in map(number, values) if x is not None]
  if len(numbers) < len(values):
    numbers = [*map(float, range(len(values)))]
    axis.set_xticks(numbers, values)
  elif min(numbers) > 0 and max(numbers) >= LOG_SPAN * min(numbers):
    axis.set_xscale('log')
  places = dict(zip(values, numbers, strict=True))
  for index, name in enumerate(dict.fromkeys(row['on'] for row in shown)):
    own = [row for row in shown if row['on'] == name]
    first = next(row['score'] for row in own if row['value'] is None)
    changed = sorted(
      (row for row in own if row['value'] is not None),
      key=lambda row: places[row['value']],
    )
    color, xs = f'C{index}', [places[row['value']] for row in changed]
    ends = [
      first + (row['difference'] if row[end] is None else row[end])
      for row in changed
      for end in ('low', 'high')
    ]
    axis.axhline(first, color=color, linestyle='--', linewidth=0.8)
    axis.fill_between(
      xs, *np.reshape(ends, (-1, 2)).T, color=color, alpha=0.15, linewidth=0
    )
    scores = [row['score'] for row in changed]
    axis.plot(xs, scores, 'o-', color=color, label=name)
