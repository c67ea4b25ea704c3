"""How early the routing of several runs settles, and how even it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from moejax.page import figures
from moejax.page.data import PageData
from moejax.page.markup import Html
from moejax.page.section import Comparison
from moejax.page.sections import stability

# By measure and column: name in the menu, title of the axis.
COLUMNS = {
  ('saturation', 'topk'): ('Saturation', 'Share that is final'),
  ('saturation', 'top1'): ('Saturation of the first expert', 'Share'),
  ('change_rate', 'set'): ('Change rate', 'Share that is new'),
  ('utilisation', 'jain'): ('Utilisation', 'Jain’s index, mean over layers'),
}


def settling(runs: Sequence[PageData]) -> Html | None:
  """A curve for each run, against the share of its training."""
  frames = []
  for (measure, column), (name, title) in COLUMNS.items():
    shown = [
      line | {'colour': place}
      for place, data in enumerate(runs)
      if (line := curve(data, data.measures.get(measure) or {}, column))
    ]
    if shown:
      frames.append({'frame': name, 'y': title, 'curves': shown})
  if not frames:
    return None
  figure = figures.chosen(
    figures.lines([], x=stability.SHARE, y='', range=[0, 1]),
    frames,
    by=figures.MENU,
    label='Measure',
  )
  caption = (
    'Of the traces of each run. Runs are comparable if they were traced at the '
    'same shares of their training.'
  )
  return figures.show('settling', 'Routing over training', figure, caption)


def curve(
  data: PageData, rows: Mapping[str, Mapping[str, Any]], column: str
) -> dict[str, Any] | None:
  """The mean over layers at each traced step; None without rows."""
  steps: dict[int, list[float]] = {}
  for row in rows.values():
    # A row without a layer is the mean, which some measures do not have.
    value = row.get(column)
    if value is not None and row.get('layer') is not None:
      steps.setdefault(row['step'], []).append(value)
  if not steps:
    return None
  last = stability.last_step(data)
  x = [100 * step / last for step in sorted(steps)]
  y = [sum(steps[step]) / len(steps[step]) for step in sorted(steps)]
  return figures.curve(data.name, x, y)


COMPARISON = Comparison(
  'Saturation and change of routing',
  settling,
  'traces of at least two checkpoints of a run',
)
