"""Numbers as a reader takes them in: counts, shares and durations."""

from typing import Any


def count(value: float | None) -> str:
  """A count with a unit of thousands: 9709248 is '9.71 M'."""
  if value is None:
    return '–'
  for size, unit in ((1e12, ' T'), (1e9, ' B'), (1e6, ' M'), (1e4, ' k')):
    if abs(value) >= size:
      small = value / (1e3 if unit == ' k' else size)
      return f'{small:.3g}{unit}'
  return f'{value:,.0f}'


def fixed(value: float | None, digits: int = 3) -> str:
  """A number with `digits` decimals; a dash for None."""
  return '–' if value is None else f'{value:.{digits}f}'


def signed(value: float | None, digits: int = 3) -> str:
  """A difference with its sign; nothing for None."""
  return '' if value is None else f'{value:+.{digits}f}'


def percent(value: float | None, digits: int = 1) -> str:
  """A share as percent; a dash for None."""
  return '–' if value is None else f'{100 * value:.{digits}f}%'


def seconds(value: float | None) -> str:
  """A duration: 267.2 is '4 min 27 s'."""
  if value is None:
    return '–'
  if value < 60:
    return f'{value:.1f} s'
  whole = round(value)
  if whole < 3600:
    return f'{whole // 60} min {whole % 60} s'
  return f'{whole // 3600:,} h {whole % 3600 // 60} min'


def text(value: Any) -> str:
  """The value of a config key as text."""
  if value is None:
    return 'none'
  if isinstance(value, bool):
    return str(value).lower()
  return str(value)
