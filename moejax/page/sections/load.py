"""The section of the load of experts, over training."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from moejax.page import figures
from moejax.page.data import PageData
from moejax.page.markup import Html, joined
from moejax.page.section import Section
from moejax.page.sections import curves

LOAD = 'moe/load'
MOST_NUMBERS = 120_000  # in all frames of the map
MOST_FRAMES = 60

# By name in the menu: title of the axis, and the metrics with their names.
HEALTH: dict[str, tuple[str, dict[str, str]]] = {
  'Largest load': (
    'Load over the mean load',
    {
      'moe/load_max': 'worst layer',
      'moe/load_max_median_layer': 'median layer',
    },
  ),
  'Least load': (
    'Load over the mean load',
    {
      'moe/load_min': 'worst layer',
      'moe/load_min_median_layer': 'median layer',
    },
  ),
  'Dead experts': (
    'Share of experts without a token in a batch',
    {
      'moe/dead_experts': 'all layers',
      'moe/dead_experts_worst_layer': 'worst layer',
    },
  ),
  'Dropped assignments': (
    'Share of assignments over capacity',
    {'moe/dropped': 'all layers', 'moe/dropped_worst_layer': 'worst layer'},
  ),
  "Router's entropy": (
    'Entropy of the router’s probabilities, nats',
    {
      'moe/entropy': 'mean',
      'moe/entropy_median_layer': 'median layer',
      'moe/entropy_worst_layer': 'worst layer',
    },
  ),
  'Overlap with the layer before': (
    'Share of choices that the layer before also made',
    {'moe/overlap': 'mean', 'moe/overlap_worst_layer': 'worst layer'},
  ),
  'Largest logit': (
    'Largest absolute logit of a router',
    {
      'moe/logit_max': 'worst layer',
      'moe/logit_max_median_layer': 'median layer',
    },
  ),
}


def load(data: PageData) -> Html | None:
  """The map of loads with a slider over steps, and curves by a menu."""
  parts = [heat_map(data), health(data)]
  shown = [part for part in parts if part is not None]
  return joined(shown) if shown else None


def heat_map(data: PageData) -> Html | None:
  """Layer × expert, a frame for each step that metrics.jsonl has loads of."""
  steps, loads = data.series(LOAD)
  if not steps or not np.size(loads[-1]):
    return None
  load_NE = np.array(loads[-1])
  num_layers, num_experts = load_NE.shape[0], load_NE.shape[1]
  most = min(MOST_FRAMES, MOST_NUMBERS // max(1, num_layers * num_experts))
  keep = spread(len(steps), most)
  frames = [{'frame': f'{steps[i]:,}', 'z': rounded(loads[i])} for i in keep]
  largest = max(np.nanmax(loads[i]) for i in keep[len(keep) // 2 :])
  figure = figures.heat(
    [],
    rows=[f'layer {n}' for n in layers(data, num_layers)],
    columns=range(num_experts),
    x='Expert',
    y='',
    value='Load / mean',
    middle=1,
    least=0,
    most=max(2.0, float(largest)),
  )
  caption = (
    'Load of an expert: its assignments in one batch over the mean of its '
    'layer, so that 1 (neutral) is perfect balance. Move the slider to see '
    'earlier steps.'
  )
  chosen = figures.chosen(
    figure, frames, by=figures.SLIDER, label=curves.STEP, first=len(frames) - 1
  )
  return figures.show('load-map', 'Load of each expert', chosen, caption)


def layers(data: PageData, num: int) -> list[int]:
  """Numbers in the model of its `num` layers with experts."""
  first = data.key('model.first_dense') or 0
  every = data.key('model.moe_every') or 1
  return [first + every * (n + 1) - 1 for n in range(num)]


def rounded(value_NE: Any) -> list[list[float | None]]:
  """Loads with two decimals, which is what a colour can show.

  None is an expert that its layer does not have.
  """
  return [
    [None if np.isnan(x) else round(float(x), 2) for x in row]
    for row in value_NE
  ]


def spread(num: int, most: int) -> list[int]:
  """Indices of at most `most` of `num` things, evenly, with first and last."""
  if num <= most:
    return [*range(num)]
  return sorted({round(i) for i in np.linspace(0, num - 1, max(2, most))})


def health(data: PageData) -> Html | None:
  """Curves of the routers' statistics while training; None without any."""
  frames = []
  for name, (title, metrics) in HEALTH.items():
    shown = [
      figures.curve(label, *curves.series(data, metric))
      for metric, label in metrics.items()
      if data.series(metric)[0]
    ]
    if shown and varies(shown):
      frames.append({'frame': name, 'y': title, 'curves': shown})
  if not frames:
    return None
  figure = figures.chosen(
    figures.lines([], x=curves.STEP, y=''),
    frames,
    by=figures.MENU,
    label='Statistic',
  )
  caption = 'Statistics of the routers on training batches.'
  return figures.show('health', 'Routers while training', figure, caption)


def varies(shown: Sequence[dict[str, Any]]) -> bool:
  """Whether a curve is ever different from zero."""
  return any(value for line in shown for value in line['y'])


SECTION = Section(
  'Load of experts',
  load,
  'metrics of a model with experts (train.load_every for the map)',
)
