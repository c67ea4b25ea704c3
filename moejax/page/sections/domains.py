"""The section of which domains use which experts."""

import collections
from collections.abc import Mapping
from typing import Any

from moejax.page import figures, markup, numbers
from moejax.page.data import PageData
from moejax.page.markup import Html, joined
from moejax.page.section import Section


def domains(data: PageData) -> Html | None:
  """The map domain × expert of a layer, and a table of specialisation."""
  rows = data.measures.get('domain_specialisation')
  if not rows:
    return None
  by_layer: dict[int, list[Mapping[str, Any]]] = collections.defaultdict(list)
  for row in rows.values():
    if row['expert'] is not None:
      by_layer[row['layer']].append(row)
  frames = [frame(layer, group) for layer, group in by_layer.items() if group]
  if not frames:
    return None
  highest = max(
    value
    for f in frames
    for line in f['z']
    for value in line
    if value is not None
  )
  figure = figures.heat(
    [],
    rows=[],
    columns=[],
    x='Expert',
    y='',
    value='Share / uniform',
    middle=1,
    least=0,
    most=max(2, highest),
  )
  chosen = figures.chosen(figure, frames, by=figures.MENU, label='Layer')
  caption = (
    'Share of a domain’s tokens that choose the expert, over the share k / E '
    'that every expert would have without specialisation: 1 is neutral.'
  )
  shown = figures.show('domain-map', 'Domains and experts', chosen, caption)
  return joined([shown, favourites(by_layer)])


def frame(layer: int, group: list[Mapping[str, Any]]) -> dict[str, Any]:
  """The map of one layer."""
  z = [
    [
      None if share is None else round(share / row['uniform'], 2)
      for share in row['share']
    ]
    for row in group
  ]
  return {
    'frame': str(layer),
    'z': z,
    'rows': [row['domain'] for row in group],
    'columns': [str(e) for e in range(len(group[0]['share']))],
  }


def favourites(by_layer: Mapping[int, list[Mapping[str, Any]]]) -> Html:
  """The expert that each domain uses most, by layer."""
  names = [row['domain'] for row in next(iter(by_layer.values()))]
  rows = []
  for layer, group in by_layer.items():
    best = {
      row['domain']: f'{row["expert"]} ({numbers.percent(row["largest"], 0)})'
      for row in group
    }
    rows.append([f'layer {layer}', *(best.get(name, '–') for name in names)])
  caption = 'The expert that most tokens of a domain choose, and their share.'
  return markup.table(['Layer', *names], rows, caption)


SECTION = Section(
  'Domains', domains, 'a trace: report.trace_tokens, or moejax trace'
)
