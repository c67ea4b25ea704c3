"""Figures: what a plot shows, as data; assets/plots.js draws it.

A figure is a dictionary of plain values. Its `kind` names the function that
draws it, `lines`, `heat` or `bars`. `frames` are variants of the figure, of
which a slider or a menu shows one: each replaces some of its keys.

The same dictionary gives the table of numbers under the plot, for readers who
cannot see it or want to copy them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from moejax.page.markup import Html, element, json_script

Figure = dict[str, Any]
SLIDER, MENU = 'slider', 'menu'


def curve(
  name: str,
  x: Sequence[Any],
  y: Sequence[Any],
  *,
  dash: bool = False,
  colour: int | None = None,
  low: Sequence[Any] | None = None,
  high: Sequence[Any] | None = None,
) -> dict[str, Any]:
  """One curve of `lines`.

  Args:
    name: its name in the legend.
    x: positions: numbers, or names of categories.
    y: values; None for a gap.
    dash: whether it is drawn dashed: a published curve beside ours.
    colour: number of its colour, for what has the same one in all figures; None
      for the next of the figure.
    low: lower ends of the confidence intervals of `y`.
    high: their upper ends.
  """
  values: dict[str, Any] = {'name': name, 'x': [*x], 'y': [*y]}
  if dash:
    values['dash'] = True
  if colour is not None:
    values['colour'] = colour
  if low is not None and high is not None:
    values |= {'low': [*low], 'high': [*high]}
  return values


def lines(
  curves: Sequence[Mapping[str, Any]], *, x: str, y: str, **keys: Any
) -> Figure:
  """Curves over a common axis.

  Args:
    curves: made by `curve`.
    x: title of the horizontal axis, with its unit.
    y: title of the vertical axis, with its unit.
    **keys: further keys: `range=[0, 1]` and `logarithmic=True` of y,
      `every=1`, the distance of two ticks of x.
  """
  return {'kind': 'lines', 'curves': [*curves], 'x': x, 'y': y, **keys}


def heat(
  value_RC: Any,
  *,
  rows: Sequence[Any],
  columns: Sequence[Any],
  x: str,
  y: str,
  value: str,
  **keys: Any,
) -> Figure:
  """A heat map of R rows, the first on top, and C columns.

  Args:
    value_RC: the numbers.
    rows: names of the rows.
    columns: names of the columns.
    x: title of the columns' axis.
    y: title of the rows' axis.
    value: what the numbers are, with their unit: title of the colour bar.
    **keys: further keys: `middle`, the value that has the neutral colour in the
      middle of a diverging scale; `least` and `most`, the ends of the scale.
  """
  return {
    'kind': 'heat',
    'z': value_RC,
    'rows': [str(name) for name in rows],
    'columns': [str(name) for name in columns],
    'x': x,
    'y': y,
    'value': value,
    **keys,
  }


def bars(values: Mapping[str, float], *, x: str, y: str, **keys: Any) -> Figure:
  """Horizontal bars, the first on top.

  Args:
    values: length of each bar, by its name.
    x: title of the values' axis, with its unit.
    y: what the names are.
    **keys: further keys.
  """
  names = [str(name) for name in values]
  return {
    'kind': 'bars',
    'names': names,
    'values': [*values.values()],
    'x': x,
    'y': y,
    **keys,
  }


def chosen(
  figure: Figure,
  frames: Sequence[Mapping[str, Any]],
  *,
  by: str,
  label: str,
  first: int = 0,
) -> Figure:
  """A figure of several frames, of which the reader chooses one.

  Args:
    figure: keys that all frames share.
    frames: keys that change; each has a `frame`, its name.
    by: SLIDER for frames in an order, MENU for others.
    label: what is chosen, such as 'Layer'.
    first: index of the frame that is shown first.
  """
  choice = {'by': by, 'label': label, 'first': first}
  return {**figure, 'frames': [*frames], 'choice': choice}


def show(name: str, title: str, figure: Figure, caption: str = '') -> Html:
  """The element of a figure, with the place of its table.

  Args:
    name: unique on the page; the id of the element.
    title: shown above, and read aloud in place of the picture.
    figure: what it shows.
    caption: how to read it, and how the numbers were made.
  """
  label = f'{title}. The numbers are in the table below the figure.'
  return element(
    'figure',
    element('h3', title, id=f'{name}-title'),
    element('div', class_='controls'),
    element('div', class_='canvas', role='img', aria_label=label),
    element('figcaption', caption) if caption else None,
    element(
      'details',
      element('summary', 'Numbers of this figure'),
      element('div', class_='numbers'),
      class_='data',
    ),
    json_script(figure),
    class_='plot',
    id=name,
    aria_labelledby=f'{name}-title',
  )


def widget(name: str, title: str, kind: str, value: Any, hint: str) -> Html:
  """The element of something to browse, which assets/widgets.js fills.

  Args:
    name: unique on the page; the id of the element.
    title: its heading.
    kind: name of the function in assets/widgets.js.
    value: what it shows, as plain values.
    hint: how it is used.
  """
  return element(
    'div',
    element('h3', title, id=f'{name}-title'),
    element('p', hint, class_='hint'),
    element('div', class_='controls'),
    element('div', class_='body'),
    json_script(value),
    class_='widget',
    id=name,
    role='group',
    aria_labelledby=f'{name}-title',
    data_widget=kind,
  )
