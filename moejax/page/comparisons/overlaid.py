"""Curves of several runs over each other."""

from collections.abc import Callable, Sequence
from typing import Any

from moejax.page import figures
from moejax.page.data import PageData
from moejax.page.markup import Html, joined
from moejax.page.section import Comparison
from moejax.page.sections import curves, load

MOST_POINTS = 3000  # of all curves of a figure
FEWEST_POINTS = 40  # of a curve


def overlaid(runs: Sequence[PageData]) -> Html | None:
  """Validation loss, then the routers' statistics, a curve for each run."""
  losses = [
    frame
    for frame in (
      _frame(runs, 'eval/loss', 'All validation sets', 'Loss, nats per token'),
      *(
        _frame(
          runs,
          f'{curves.PREFIX}{name}{curves.SUFFIX}',
          name,
          'Loss, nats per token',
        )
        for name in _all(runs, curves.domains)
      ),
      _frame(runs, 'loss', 'Training batch', 'Loss, nats per token'),
    )
    if frame
  ]
  health = [
    frame
    for name, (title, metrics) in load.HEALTH.items()
    if (frame := _frame(runs, next(iter(metrics)), name, title))
    and load.varies(frame['curves'])
  ]
  shown = [
    _chosen('losses', 'Loss over training', losses, 'Text'),
    _chosen('health', 'Routers while training', health, 'Statistic'),
  ]
  kept = [part for part in shown if part is not None]
  return joined(kept) if kept else None


def _all(
  runs: Sequence[PageData], names: Callable[[PageData], Sequence[str]]
) -> list[str]:
  """The names of all runs, each once, in their order."""
  return [*dict.fromkeys(name for data in runs for name in names(data))]


def _frame(
  runs: Sequence[PageData], metric: str, name: str, title: str
) -> dict[str, Any] | None:
  """One metric of all runs that have it, each in its own colour."""
  most = max(FEWEST_POINTS, MOST_POINTS // len(runs))
  shown = [
    figures.curve(data.name, *curves.series(data, metric, most), colour=place)
    for place, data in enumerate(runs)
    if data.series(metric)[0]
  ]
  return {'frame': name, 'y': title, 'curves': shown} if shown else None


def _chosen(
  name: str, title: str, frames: Sequence[dict[str, Any]], label: str
) -> Html | None:
  if not frames:
    return None
  figure = figures.lines([], x=curves.STEP, y='')
  return figures.show(
    name, title, figures.chosen(figure, frames, by=figures.MENU, label=label)
  )


COMPARISON = Comparison('Curves', overlaid, 'lines of metrics.jsonl')
