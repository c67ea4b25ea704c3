"""Results of a sweep over methods of compression: rows, a table, a picture."""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from moejax.core import columns
from moejax.run import intervention_rows
from moejax.run.compression_sweep import FULL

MEAN = intervention_rows.MEAN


def rows(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
  """A row for each model and each validation set, the full model first.

  A row has the keys `score` (nats per token), `bits_per_byte`, `difference`,
  `low` and `high` of `intervention_rows.rows`, with differences to the full
  model, and

    model          its name among the measurements
    method, keep   None for the full model
    seed           of scores that are drawn
    kept           mean number of experts of a layer
    parameters     those that merged experts share are counted once
    bytes          of the weights as they are stored, with all copies of experts
                   that a group shares
    tokens_per_s   of an evaluation
    on             the validation set; `mean` over several sets

  Args:
    measured: by name of the model, of `compression_sweep.sweep`.
  """
  first = measured[FULL]
  shown = []
  for name in sorted(measured, key=lambda name: name != FULL):
    own = measured[name]
    about = {
      'model': name,
      **{key: own.get(key) for key in ('method', 'keep', 'seed')},
      'kept': float(np.mean(own['experts'])),
      **{key: own[key] for key in ('parameters', 'bytes', 'tokens_per_s')},
    }
    pairs = [(on, first['sets'][on], x) for on, x in own['sets'].items()]
    lines = [intervention_rows.set_row(*pair) for pair in pairs]
    if len(pairs) > 1:
      lines.append(intervention_rows.mean_row(lines, pairs))
    if name == FULL:
      nothing = dict.fromkeys(('difference', 'low', 'high'))
      lines = [line | nothing for line in lines]
    shown += [about | line for line in lines]
  return shown


def lines(shown: Sequence[Mapping[str, Any]]) -> list[str]:
  """The rows as an aligned table: a line for each model, sets as columns.

  Args:
    shown: of `rows`.
  """
  sets = [*dict.fromkeys(row['on'] for row in shown)]
  head = ['model', 'experts', 'parameters', 'MB', 'tokens/s', *sets]
  cells = [[*head, 'difference', '95% interval']]
  for name in dict.fromkeys(row['model'] for row in shown):
    own = {row['on']: row for row in shown if row['model'] == name}
    # The mean, or the only set.
    last = own[sets[-1]]
    interval = '-'
    if last['low'] is not None:
      interval = f'{last["low"]:+.4f} to {last["high"]:+.4f}'
    difference = last['difference']
    cells.append([
      name,
      f'{last["kept"]:g}',
      f'{last["parameters"]:,}',
      f'{last["bytes"] / 1e6:,.1f}',
      f'{last["tokens_per_s"]:,.0f}',
      *(f'{own[on]["score"]:.4f}' for on in sets),
      '-' if difference is None else f'{difference:+.4f}',
      interval,
    ])
  return columns.aligned(cells)


# What the rows of the picture are drawn over: title of the axis, and its unit.
OVER: dict[str, tuple[str, float]] = {
  'kept': ('experts of a layer', 1),
  'bytes': ('MB of weights', 1e6),
  'tokens_per_s': ('tokens/s of an evaluation', 1),
}


def draw(shown: Sequence[Mapping[str, Any]], path: epath.PathLike) -> str:
  """Draws the loss of each validation set over experts, bytes and speed.

  Methods are lines, the full model is dashed.

  Args:
    shown: of `rows`.
    path: of an SVG or PNG file.

  Returns:
    A line that names the picture, or says that matplotlib is missing.
  """
  if importlib.util.find_spec('matplotlib') is None:
    return "No picture: matplotlib is missing; pip install 'moejax[plot]'."
  import matplotlib.figure  # slow to import

  sets = [*dict.fromkeys(row['on'] for row in shown)]
  size = (4.5 * len(sets), 4 * len(OVER))
  figure = matplotlib.figure.Figure(figsize=size, layout='tight')
  grid = figure.subplots(len(OVER), len(sets), squeeze=False)
  for axes, (over, (title, _)) in zip(grid, OVER.items(), strict=True):
    for axis, on in zip(axes, sets, strict=True):
      curves(axis, [row for row in shown if row['on'] == on], over)
      axis.set_title(on)
      axis.set_xlabel(title)
      axis.grid(alpha=0.4)
    axes[0].set_ylabel('loss (nats per token)')
  grid[0, 0].legend(fontsize='small')
  figure.savefig(path)
  return f'Picture: {path}'


def curves(
  axis: Any, shown: Sequence[Mapping[str, Any]], over: str = 'kept'
) -> None:
  """A line for each method, whose points are the numbers of experts kept.

  The full model is dashed. Several seeds of a method are points of one line, at
  their mean.

  Args:
    axis: of matplotlib.
    shown: rows of one validation set.
    over: what the line is drawn over, an entry of OVER.
  """
  for row in shown:
    if row['method'] is None:
      axis.axhline(row['score'], color='0.4', linestyle='--', label=FULL)
  names = dict.fromkeys(row['method'] for row in shown if row['method'])
  for index, name in enumerate(names):
    own = [row for row in shown if row['method'] == name]
    kept = sorted({row['kept'] for row in own})
    points = [[row for row in own if row['kept'] == x] for x in kept]
    mean = lambda key, points=points: [
      float(np.mean([row[key] for row in rows])) for rows in points
    ]
    x = np.array(mean(over)) / OVER[over][1]
    axis.plot(x, mean('score'), 'o-', color=f'C{index}', label=name)
