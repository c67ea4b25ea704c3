"""The section of how early routing settles: saturation and change rate."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moejax.page import figures
from moejax.page.data import PageData
from moejax.page.markup import Html, joined
from moejax.page.section import Section

SHARE = 'Share of training, %'
# By measure: title of its figure, title of its axis, columns with their names,
# and the caption.
MEASURES: dict[str, tuple[str, str, dict[str, str], str]] = {
  'saturation': (
    'Router saturation',
    'Share that is final',
    {'topk': 'all experts of a token', 'top1': 'first expert'},
    'Share of a token’s experts that the last checkpoint chooses too, mean '
    'over tokens and layers. Band: 95% interval over documents.',
  ),
  'change_rate': (
    'Change rate',
    'Share that is new',
    {'set': 'set of experts', 'slot': 'expert of each rank'},
    'Share of a token’s experts that the checkpoint before did not choose. The '
    'rate grows with the number of steps between checkpoints.',
  ),
}


def stability(data: PageData) -> Html | None:
  """A figure with curves for each of MEASURES, and one by layer."""
  shown: list[Html] = []
  for name, (title, axis, columns, caption) in MEASURES.items():
    rows = data.measures.get(name)
    if not rows:
      continue
    last = last_step(data)
    ours = [*curves(rows, columns, last)]
    published, sources = published_curves(data.published.get(name) or {})
    if not ours:
      continue
    if published:
      caption += f' Dashed: published curves, {"; ".join(sources)}.'
    figure = figures.lines([*ours, *published], x=SHARE, y=axis, range=[0, 1])
    shown.append(figures.show(f'{name}-curve', title, figure, caption))
    column = next(iter(columns))
    if by_layer := layer_map(rows, column):
      heading = f'{title} of each layer'
      shown.append(figures.show(f'{name}-layers', heading, by_layer))
  return joined(shown) if shown else None


def last_step(data: PageData) -> int:
  """The last step of the newest trace, or of the metrics; at least 1."""
  if data.trace is not None:
    return max(data.trace.step, 1)
  return max(data.metrics[-1]['step'] if data.metrics else 0, 1)


def curves(
  rows: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str], last: int
) -> Iterator[dict[str, Any]]:
  """The mean over layers of each column, against the share of training."""
  means = [row for row in rows.values() if row.get('layer') is None]
  x = [100 * row['step'] / last for row in means]
  for column, name in columns.items():
    values = [row.get(column) for row in means]
    if any(value is not None for value in values):
      yield figures.curve(
        name,
        x,
        values,
        low=[row.get(f'{column}_low') for row in means],
        high=[row.get(f'{column}_high') for row in means],
      )


def published_curves(
  published: Mapping[str, Sequence[Sequence[float]]],
) -> tuple[list[dict[str, Any]], list[str]]:
  """Dashed curves, and their sources.

  Args:
    published: [share of training in %, value] pairs by name of the curve, which
      is that of the model, a comma and the source.
  """
  shown, sources = [], dict[str, None]()
  for title, points in published.items():
    model, _, source = title.partition(', ')
    sources[source or title] = None
    x, y = zip(*points, strict=True)
    shown.append(figures.curve(model, x, y, dash=True))
  return shown, [*sources]


def layer_map(
  rows: Mapping[str, Mapping[str, Any]], column: str
) -> figures.Figure | None:
  """Layer × step; None for fewer than two layers."""
  single = [row for row in rows.values() if row.get('layer') is not None]
  layers = sorted({row['layer'] for row in single})
  steps = sorted({row['step'] for row in single})
  if len(layers) < 2:
    return None
  known = {(row['layer'], row['step']): row.get(column) for row in single}
  return figures.heat(
    [[known.get((layer, step)) for step in steps] for layer in layers],
    rows=[f'layer {layer}' for layer in layers],
    columns=[f'{step:,}' for step in steps],
    x='Training step',
    y='',
    value='Share',
    least=0,
    most=1,
  )


SECTION = Section(
  'Saturation and change of routing',
  stability,
  'traces of at least two checkpoints: report.trace_tokens, or '
  'moejax trace --checkpoints=all',
)
