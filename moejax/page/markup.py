"""HTML as text: every value that is put into it is escaped.

`element('p', '<b>')` is `<p>&lt;b&gt;</p>`: text becomes text. Only `Html`,
which the functions of this file return, is put in as it is.
"""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

DIGITS = 5  # significant digits of numbers in figures


class Html(str):
  """Text that is HTML already."""

  __slots__ = ()


def escaped(value: Any) -> Html:
  """A value as HTML text, with nothing in it that HTML gives a meaning."""
  return value if isinstance(value, Html) else Html(html.escape(str(value)))


def joined(parts: Iterable[Any]) -> Html:
  """Parts one after the other; None is left out."""
  return Html(''.join(escaped(part) for part in parts if part is not None))


def element(tag: str, *children: Any, **attributes: Any) -> Html:
  """An element; `class_` is the attribute class, `aria_label` aria-label.

  An attribute that is None or False is left out; one that is True has no value.
  """
  named = ''
  for name, value in attributes.items():
    if value is None or value is False:
      continue
    name = name.rstrip('_').replace('_', '-')
    named += f' {name}' if value is True else f' {name}="{escaped(value)}"'
  return Html(f'<{tag}{named}>{joined(children)}</{tag}>')


def table(
  head: Sequence[Any], rows: Iterable[Sequence[Any]], caption: str
) -> Html:
  """A table whose first column heads its rows, with a caption on top.

  Cells that are numbers are shown as they are; format them first.
  """
  top = joined(element('th', cell, scope='col') for cell in head)
  body = joined(
    element(
      'tr',
      element('th', row[0], scope='row'),
      *(element('td', cell) for cell in row[1:]),
    )
    for row in rows
  )
  inner = element(
    'table',
    element('caption', caption),
    element('thead', element('tr', top)),
    element('tbody', body),
  )
  # A region that scrolls must be reachable by keyboard.
  return element(
    'div',
    inner,
    class_='scroll',
    tabindex='0',
    role='region',
    aria_label=caption,
  )


def plain(value: Any, digits: int = DIGITS) -> Any:
  """A value as JSON has it: lists, dictionaries, rounded numbers, None.

  Args:
    value: nested lists, dictionaries, NumPy arrays, numbers and texts.
    digits: significant digits that are kept of numbers that are not whole.

  Returns:
    The same with None for numbers that are not finite.
  """
  if isinstance(value, Mapping):
    return {str(key): plain(inner, digits) for key, inner in value.items()}
  if isinstance(value, np.ndarray):
    return plain(value.tolist(), digits)
  if isinstance(value, (list, tuple)):
    return [plain(inner, digits) for inner in value]
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, float):
    if not math.isfinite(value):
      return None
    short = float(f'{value:.{digits}g}')
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
  return value


def json_script(value: Any) -> Html:
  """A value as JSON in a script element that runs nothing.

  `<`, `>` and `&` are written as escapes, so that no text in the value can end
  the element.
  """
  text = json.dumps(plain(value), allow_nan=False, separators=(',', ':'))
  for character in '<>&':
    text = text.replace(character, f'\\u{ord(character):04x}')
  return Html(f'<script type="application/json">{text}</script>')
