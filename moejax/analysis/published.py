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
