"""Curves that papers print, to show beside those of a run.

published.json has them with the paper, the place in it, and what they are of.
Values that were read off a figure are good to about one percent.
"""

import json
import pathlib

FILE = pathlib.Path(__file__).with_name('published.json')
Curve = list[list[float]]


def curves() -> dict[str, dict[str, Curve]]:
  """By measure and name of the curve, [share of training in %, value] pairs.

  Example:
    {'saturation': {'SMoE 158M, by token type (arXiv 2505.10860)': [[10, 0.7],
    [90, 0.917]], ...}, ...}
  """
  by_measure: dict[str, dict[str, Curve]] = {}
  for group in json.loads(FILE.read_text())['curves']:
    for measure in group['measures']:
      for name, points in group['points'].items():
        title = f'{name}, {group["basis"]} ({group["paper"]})'
        by_measure.setdefault(measure, {})[title] = points
  return by_measure


def curve(measure: str, name: str) -> Curve:
  """The one curve of a measure with this name in published.json.

  Args:
    measure: such as 'saturation'.
    name: the model, such as 'SMoE 158M'.

  Returns:
    [share of training in %, value] pairs.

  Raises:
    KeyError: there is none, or there are several.
  """
  named = [
    points
    for title, points in curves().get(measure, {}).items()
    if title.startswith(f'{name}, ')
  ]
  if len(named) != 1:
    raise KeyError(f'{len(named)} curves of {measure} for {name}')
  return named[0]
