"""Numbers as JSON takes them: no NaN, and no more digits than they are worth.

Columns have fixed meanings in the rows of all measures:

  step, tokens_seen   the checkpoint
  layer               number of the layer in the model; None is their mean
  NAME_low, NAME_high the 95% interval of the mean NAME, see `bootstrap.py`
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from moejax.analysis import bootstrap
from moejax.analysis.trace import Trace

DIGITS = 5  # behind the decimal point, in lists and matrices


def number(value: Any) -> float | None:
  """A float; None for what is not finite."""
  value = float(value) + 0.0  # no negative zero
  return value if np.isfinite(value) else None


def numbers(values: np.ndarray) -> list[Any]:
  """An array as nested lists of rounded floats; None for what is not finite."""
  values = np.asarray(values, np.float64)
  if values.ndim > 1:
    return [numbers(row) for row in values]
  rounded = (np.round(values, DIGITS) + 0.0).tolist()
  return [x if np.isfinite(x) else None for x in rounded]


def ratio(numerator: Any, denominator: Any) -> np.ndarray:
  """The quotient as float64; NaN where the denominator is 0."""
  numerator, denominator = np.broadcast_arrays(
    np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
  )
  out = np.full(numerator.shape, np.nan)
  np.divide(numerator, denominator, out=out, where=denominator != 0)
  return out


def interval(name: str, mean: bootstrap.Mean) -> dict[str, float | None]:
  """The columns of a mean with its interval."""
  return {
    name: number(mean.value),
    f'{name}_low': number(mean.low),
    f'{name}_high': number(mean.high),
  }


def checkpoint(trace: Trace) -> dict[str, Any]:
  """The columns that name a checkpoint."""
  return {'step': int(trace.step), 'tokens_seen': int(trace.tokens_seen)}


def by_layer(
  trace: Trace,
  means: Mapping[str, bootstrap.LayerMeans],
  names: Mapping[int, str] | None = None,
) -> dict[str, dict[str, Any]]:
  """Rows of means for each layer of a checkpoint, and for their mean.

  Args:
    trace: of the checkpoint.
    means: by column.
    names: by index of a layer, the name of its row behind the step; None
      stands for 'layer 3' and the like.
  """
  if names is None:
    names = {n: f'layer {x}' for n, x in enumerate(trace.layers)}
  step = checkpoint(trace)
  rows = {}
  for n, name in names.items():
    row = {**step, 'layer': int(trace.layers[n])}
    for column, mean in means.items():
      row |= interval(column, mean.layers[n])
    rows[f'step {trace.step}, {name}'] = row
  row = {**step, 'layer': None}
  for column, mean in means.items():
    row |= interval(column, mean.all)
  rows[f'step {trace.step}, all layers'] = row
  return rows


def mean(values: np.ndarray) -> float:
  """The mean of the values that are not NaN; NaN if there are none."""
  values = np.asarray(values, np.float64)
  values = values[~np.isnan(values)]
  return float(values.mean()) if len(values) else np.nan


def off_diagonal(value_EE: np.ndarray) -> np.ndarray:
  """The values off the diagonal, in one dimension."""
  return value_EE[~np.eye(len(value_EE), dtype=bool)]
