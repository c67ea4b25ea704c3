"""The section of how sure routers are: margins and entropies."""

from collections.abc import Mapping
from typing import Any

from moejax.page import figures
from moejax.page.data import PageData
from moejax.page.markup import Html, joined
from moejax.page.section import Section

# By measure and column: name in the menu, title of the axis.
BY_LAYER = {
  ('margin', 'weight'): ('Margin', 'First minus second gate weight'),
  ('margin', 'probability'): (
    'Margin of probabilities',
    'First minus second probability',
  ),
  ('gate_entropy', 'normalised'): (
    'Entropy of gate weights',
    'Entropy of the chosen gate weights over ln k',
  ),
  ('utilisation', 'jain'): ('Jain’s index', 'Jain’s index of loads'),
  ('utilisation', 'entropy'): (
    'Entropy of loads',
    'Entropy of loads over ln E',
  ),
}
BY_BIN = {
  'entropy_by_frequency': (
    'Frequency of the token',
    'Occurrences of the token',
  ),
  'entropy_by_position': ('Position in the document', 'Position of the token'),
}


def certainty(data: PageData) -> Html | None:
  """Curves over layers, and the entropy by frequency and position."""
  layers = [
    frame
    for (measure, column), (name, title) in BY_LAYER.items()
    if (frame := over_layers(data.measures.get(measure), column, name, title))
  ]
  bins = [
    frame
    for measure, (name, axis) in BY_BIN.items()
    if (frame := over_bins(data.measures.get(measure), name, axis))
  ]
  shown = []
  if layers:
    figure = figures.chosen(
      figures.lines([], x='Layer', y=''),
      layers,
      by=figures.MENU,
      label='Measure',
    )
    shown.append(
      figures.show(
        'by-layer',
        'Routers by layer',
        figure,
        'Of the last traced checkpoint. Band: 95% interval over documents.',
      )
    )
  if bins:
    figure = figures.chosen(
      figures.lines([], x='', y='Entropy of the router, nats'),
      bins,
      by=figures.MENU,
      label='By',
    )
    shown.append(
      figures.show(
        'by-token',
        'Entropy of the router by token',
        figure,
        'Entropy of the router’s probabilities, mean over tokens and layers; '
        'ln E is that of a router that cannot decide.',
      )
    )
  return joined(shown) if shown else None


def over_layers(
  rows: Mapping[str, Mapping[str, Any]] | None,
  column: str,
  name: str,
  title: str,
) -> dict[str, Any] | None:
  """A column of the last step's rows against the layer; None without it."""
  known = [
    row
    for row in (rows or {}).values()
    if row.get('layer') is not None and row.get(column) is not None
  ]
  if not known:
    return None
  last = max(row.get('step', 0) for row in known)
  kept = [row for row in known if row.get('step', 0) == last]
  return {
    'frame': name,
    'y': title,
    'every': max(1, len(kept) // 16),
    'curves': [
      figures.curve(
        name,
        [row['layer'] for row in kept],
        [row[column] for row in kept],
        **ends(kept, column),
      )
    ],
  }


def over_bins(
  rows: Mapping[str, Mapping[str, Any]] | None, name: str, axis: str
) -> dict[str, Any] | None:
  """The mean entropy of each bin; None without rows."""
  kept = [row for row in (rows or {}).values() if row['entropy'] is not None]
  if not kept:
    return None
  places = [
    str(row['from'])
    if row['from'] == row['to']
    else f'{row["from"]}–{row["to"]}'
    for row in kept
  ]
  values = [row['entropy'] for row in kept]
  line = figures.curve(name, places, values, **ends(kept, 'entropy'))
  return {'frame': name, 'x': axis, 'curves': [line]}


def ends(rows: list[Mapping[str, Any]], column: str) -> dict[str, Any]:
  """The arguments `low` and `high` of a curve, if all rows have them."""
  low = [row.get(f'{column}_low') for row in rows]
  high = [row.get(f'{column}_high') for row in rows]
  return {} if None in low or None in high else {'low': low, 'high': high}


SECTION = Section(
  'Certainty of routers',
  certainty,
  'a trace: report.trace_tokens, or moejax trace',
)
