"""The range of a number in a config, stated once, where its key is defined."""

import dataclasses
from typing import Any

from moejax.core import errors

# Upper end of a key that states none: the largest int32.
LARGEST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Bounds:
  """A range with one lower and one upper end.

  Attributes:
    at_least, above: the lower end, which is allowed (at_least) or not (above);
      the other one is None.
    at_most, below: the upper end, which is allowed (at_most) or not (below);
      the other one is None.
    note: meaning of a special value, such as '0: all', for error lines.
  """

  at_least: float | None = None
  above: float | None = None
  at_most: float | None = None
  below: float | None = None
  note: str = ''

  def __post_init__(self):
    lower, upper = (self.at_least, self.above), (self.at_most, self.below)
    if lower.count(None) != 1 or upper.count(None) != 1:
      raise ValueError(f'{self} needs one lower and one upper end')

  def __contains__(self, value: float) -> bool:
    """Whether a value lies inside; NaN never does."""
    return (
      (self.at_least is None or value >= self.at_least)
      and (self.above is None or value > self.above)
      and (self.at_most is None or value <= self.at_most)
      and (self.below is None or value < self.below)
    )

  def __str__(self) -> str:
    """Example: `from 1 to 64`, `above 0 and at most 1 (1: all)`."""
    if self.at_least is not None and self.at_most is not None:
      text = f'from {self.at_least} to {self.at_most}'
    else:
      low, high = f'at least {self.at_least}', f'at most {self.at_most}'
      low = f'above {self.above}' if self.at_least is None else low
      high = f'below {self.below}' if self.at_most is None else high
      text = f'{low} and {high}'
    return f'{text} ({self.note})' if self.note else text


def of(field: dataclasses.Field) -> Bounds | None:
  """The bounds that a dataclass field states, or None."""
  return field.metadata.get('bounds')


def check(field: dataclasses.Field, value: Any, where: str) -> None:
  """Raises InputError if a field's value lies outside its bounds.

  Args:
    field: a field of a dataclass.
    value: a number, a list or tuple of numbers, or None, which always passes.
    where: the key, as the error names it.
  """
  bounds = of(field)
  if bounds is None or value is None:
    return
  for number in value if isinstance(value, (list, tuple)) else (value,):
    if number not in bounds:
      raise errors.InputError(f'{where}={number} must be {bounds}')


def check_all(obj: Any) -> None:
  """Raises InputError if a number of a dataclass lies outside its bounds."""
  for field in dataclasses.fields(obj):
    where = f'{type(obj).__name__}.{field.name}'
    check(field, getattr(obj, field.name), where)
