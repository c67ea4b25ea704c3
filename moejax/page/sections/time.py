"""The section of the seconds of a run, and of what a plan had predicted."""

import statistics
from collections.abc import Mapping
from typing import Any

from moejax.page import figures, markup, numbers
from moejax.page.data import PageData
from moejax.page.markup import Html
from moejax.page.section import Section
from moejax.page.sections import summary

STEP_S = 'time/step_s'
MFU = 'time/model_flops_utilisation'
NAMES = {
  'start_up': 'start-up',
  'compile': 'compiling',
  'restore': 'restoring',
  'data_wait': 'waiting for data',
  'step': 'training steps',
  'save': 'saving',
  'evaluation': 'evaluation',
  'lost': 'repeated after a kill',
}


def time(data: PageData) -> Html | None:
  """Goodput, then the plan beside what was measured."""
  parts = [goodput(data.goodput), planned(data)]
  shown = [part for part in parts if part is not None]
  return markup.joined(shown) if shown else None


def goodput(kept: Mapping[str, Any] | None) -> Html | None:
  """Seconds by activity, as bars."""
  if not kept or not kept.get('seconds'):
    return None
  seconds = {
    NAMES.get(name, name): value
    for name, value in kept['seconds'].items()
    if value
  }
  starts = kept.get('starts', 1)
  caption = f'All seconds of the run, over {starts} start' + 's' * (starts > 1)
  figure = figures.bars(seconds, x='Seconds', y='Activity')
  return figures.show('goodput', 'Goodput', figure, f'{caption}.')


def planned(data: PageData) -> Html | None:
  """The plan's figures beside the run's; None without a plan."""
  if not data.plan:
    return None
  estimates = data.plan.get('estimates') or {}
  measured = measurements(data)
  rows = []
  for key, (name, show) in QUANTITIES.items():
    cells = [show(row.get(key)) for row in estimates.values()]
    rows.append([name, *cells, show(measured.get(key))])
  for key, name in (('total', 'Parameters'), ('active', 'Active parameters')):
    value = numbers.count((data.plan.get('parameters') or {}).get(key))
    ours = numbers.count((data.report or {}).get(f'{key}_parameters'))
    rows.append([name, *[value] * max(1, len(estimates)), ours])
  names = [f'Planned ({name})' for name in estimates] or ['Planned']
  if not estimates:
    rows = [row for row in rows if len(row) == 3]
  where = data.plan.get('topology', 'unknown devices')
  caption = f'Planned for {where}, and measured in this run (medians).'
  return markup.table(['Quantity', *names, 'Measured'], rows, caption)


QUANTITIES = {
  'step_seconds': ('Seconds per step', lambda x: numbers.fixed(x, 4)),
  'tokens_per_second': ('Tokens per second', numbers.count),
  'model_flops_utilisation': ('Model-FLOPs utilisation', numbers.percent),
}


def measurements(data: PageData) -> dict[str, float]:
  """Medians of the run, by the plan's names."""
  metrics = {
    'step_seconds': STEP_S,
    'tokens_per_second': summary.SPEED,
    'model_flops_utilisation': MFU,
  }
  return {
    key: statistics.median(values)
    for key, metric in metrics.items()
    if (values := data.series(metric)[1])
  }


SECTION = Section('Time', time, 'goodput.json; plan.json (moejax plan --out)')
