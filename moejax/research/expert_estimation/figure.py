"""The figure of a study: a panel of loss against sample size for each case."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from moejax.research import figures
from moejax.research.expert_estimation import slopes


def draw(cases: Mapping[str, Mapping[str, Any]]) -> Any:
  """Draws the cases of `results.json`.

  Each panel has the mean loss with a bar of two standard deviations, the fitted
  line and its slope, and lines of the theorem's slope and of the slope that a
  paper printed through the first mean.
  """
  whole, panels = figures.figure(len(cases))
  for panel, (name, case) in zip(panels, cases.items(), strict=True):
    _panel(panel, name, case)
  return whole


def _panel(panel: Any, name: str, case: Mapping[str, Any]) -> None:
  series = case['series']['loss']
  rows = [
    (size, mean, spread or 0.0)
    for size, mean, spread in zip(
      case['sizes'], series['mean'], series['deviation'], strict=True
    )
    if mean
  ]
  panel.set_title(f'{name}: {case["loss"]}', fontsize=9)
  panel.set_xlabel('samples n')
  panel.set_xscale('log')
  panel.set_yscale('log')
  if not rows:
    return
  size_S, mean_S, spread_S = np.array(rows).T
  # A bar that reaches below zero has no lower end on this axis.
  low_S = np.minimum(2 * spread_S, 0.9 * mean_S)
  panel.errorbar(
    size_S, mean_S, yerr=[low_S, 2 * spread_S], fmt='o', color='C0', capsize=3
  )
  fit = series['slope']
  if fit:
    line = slopes.Slope(**fit)
    panel.plot(
      size_S,
      line.at(size_S),
      color='C1',
      label=f'{line.value:.3f} [{line.low:.3f}, {line.high:.3f}]',
    )
  x_S = slopes.regressor(size_S)
  for word, style in (('theory', '--'), ('published', ':')):
    if case[word] is not None:
      panel.plot(
        size_S,
        mean_S[0] * np.exp(case[word] * (x_S - x_S[0])),
        style,
        color='grey',
        label=f'{word} {case[word]}',
      )
  if panel.get_legend_handles_labels()[0]:
    panel.legend(fontsize=8, title='slope in log n / n', title_fontsize=8)
