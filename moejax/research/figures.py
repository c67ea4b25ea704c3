"""What the figures of the studies share."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from moejax.core import errors

COLOURS = ('C0', 'C1', 'C2', 'C3', 'C4', 'C5', 'C6', 'C7', 'C8', 'C9')


def figure(num_panels: int, height: float = 3.6) -> tuple[Any, list[Any]]:
  """A figure with panels side by side, and its axes.

  Raises:
    InputError: matplotlib is not installed.
  """
  try:
    import matplotlib.figure  # slow to import
  except ImportError:
    raise errors.InputError(
      "the figures of studies need matplotlib: pip install 'moejax[plot]'"
    ) from None

  size = (4.4 * num_panels, height)
  whole = matplotlib.figure.Figure(figsize=size, layout='constrained')
  axes = whole.subplots(1, num_panels, squeeze=False)[0]
  for panel in axes:
    panel.grid(alpha=0.3)
  return whole, [*axes]


def dots(panel: Any, scores: Mapping[str, Sequence[float]], label: str) -> None:
  """A row for each method: its seeds as small dots, mean and deviation.

  Args:
    panel: the axes.
    scores: by method, the first on top.
    label: of the horizontal axis.
  """
  names = [*scores]
  for y, name in enumerate(reversed(names)):
    values = scores[name]
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    at = [y] * len(values)
    panel.plot(values, at, '.', color='C1', markersize=4, zorder=3)
    panel.errorbar(
      statistics.fmean(values), y, xerr=spread, fmt='o', capsize=3, color='C0'
    )
  panel.set_yticks(range(len(names)), names[::-1])
  panel.set_xlabel(label)


def line(
  panel: Any,
  x: Sequence[float],
  runs: Sequence[Sequence[float]],
  label: str,
  colour: str,
) -> None:
  """The mean over runs, and a band of one standard deviation.

  Args:
    panel: the axes.
    x: the horizontal values.
    runs: the values of each run, as many as x.
    label: for the legend.
    colour: of line and band.
  """
  means = [statistics.fmean(values) for values in zip(*runs, strict=True)]
  panel.plot(x, means, '.-', label=label, color=colour)
  if len(runs) > 1:
    spreads = [statistics.stdev(values) for values in zip(*runs, strict=True)]
    low = [m - s for m, s in zip(means, spreads, strict=True)]
    high = [m + s for m, s in zip(means, spreads, strict=True)]
    panel.fill_between(x, low, high, alpha=0.2, color=colour)
