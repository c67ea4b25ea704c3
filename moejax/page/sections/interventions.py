"""The section of interventions: how the loss changes if routing is changed."""

from collections.abc import Mapping, Sequence
from typing import Any

from moejax.page import figures, markup, numbers
from moejax.page.data import PageData
from moejax.page.markup import Html, joined
from moejax.page.section import Section

MEAN = 'mean'


def interventions(data: PageData) -> Html | None:
  """A figure and a table for each intervention that has rows."""
  shown = [
    one(name, result)
    for name, result in data.interventions.items()
    if result and result.get('rows')
  ]
  return joined(shown) if shown else None


def one(name: str, result: Mapping[str, Any]) -> Html:
  """The curves of one intervention over its values, and its rows."""
  rows = result['rows']
  losses = [row for row in rows if row['metric'] == 'loss']
  place = places(rows)
  curves = []
  for text in dict.fromkeys(row['on'] for row in losses):
    own = [row for row in losses if row['on'] == text and row['value'] in place]
    x = [place[row['value']] for row in own]
    curves.append(figures.curve(text, x, [row['score'] for row in own]))
  if None not in place:
    curves += [
      figures.curve(
        f'{row["on"]}, unchanged',
        [min(place.values()), max(place.values())],
        [row['score']] * 2,
        dash=True,
      )
      for row in losses
      if row['value'] is None and row['on'] == MEAN
    ]
  title = f'Intervention {result.get("what", name)}'
  caption = result.get('summary', '')
  parts = []
  if curves:
    figure = figures.lines(curves, x=result.get('value', 'Value'),
                           y='Loss, nats per token')  # fmt: skip
    parts.append(figures.show(f'intervention-{name}', title, figure, caption))
  parts.append(table(title, rows))
  return joined(parts)


def places(rows: Sequence[Mapping[str, Any]]) -> dict[str | None, Any]:
  """Place on the axis of each value: its number, or else its text.

  Among numbers the unchanged model (value None) has no place: its loss is a
  line of its own.
  """
  known: dict[str | None, Any] = {r['value']: r.get('number') for r in rows}
  known.pop(None, None)
  if not known or None in known.values():
    return {None: 'unchanged'} | {value: str(value) for value in known}
  return {value: float(number) for value, number in known.items()}


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> Html:
  """All rows, with the differences to the unchanged model."""
  head = ['Value', 'On', 'Metric', 'Score', 'Difference', '95% interval']
  lines = [
    [
      'unchanged' if row['value'] is None else row['value'],
      row['on'],
      row['metric'],
      numbers.fixed(row['score'], 4),
      numbers.signed(row['difference'], 4),
      '' if row['low'] is None else f'{row["low"]:+.4f} to {row["high"]:+.4f}',
    ]
    for row in rows
  ]
  inner = markup.table(head, lines, title)
  summary = markup.element('summary', 'All rows, with intervals')
  return markup.element('details', summary, inner)


SECTION = Section('Interventions', interventions, 'results of moejax intervene')
