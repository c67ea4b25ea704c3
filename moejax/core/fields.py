"""Fields of config dataclasses, with what may be put into them.

number(1, at_least=1)      a number and its bounds, which hold for a config
file, a flag, and Python (by `Checked`) alike.
choice(TABLE, Default())   one frozen dataclass out of a table. In the tree it
is a node with its `name` and its own keys; setting
`router.name=gshard` gives gshard's defaults.
choices(TABLE, (A(), B())) several of them, as a node of nodes by name;
`balance.device_level=off` takes one out.
named(TABLE, 'name')       the name of an entry that has nothing to configure.
X | None                   `none` clears it; it can be set though it is None.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from moejax.core import bounds


class Checked:
  """Base of the dataclasses that hold numbers: checks their bounds.

  One that has a `__post_init__` of its own calls this one first.
  """

  def __post_init__(self) -> None:
    bounds.check_all(self)


def number(
  default: float | tuple[float, ...] | None,
  *,
  at_least: float | None = None,
  above: float | None = None,
  at_most: float | None = None,
  below: float | None = None,
  note: str = '',
) -> Any:
  """A field that holds a number within bounds, or several of them.

  Example:
    k: int = number(2, at_least=1)
    share: float = number(0.1, above=0, at_most=1, note='1: all')

  Args:
    default: the number; None where the field may be None.
    at_least: the lower end, if it is allowed itself; or
    above: the lower end, if it is not.
    at_most: the upper end, if it is allowed itself; or
    below: the upper end, if it is not. Without either it is that of int32.
    note: meaning of a special value, for error lines.
  """
  if at_most is None and below is None:
    at_most = bounds.LARGEST
  limits = bounds.Bounds(at_least, above, at_most, below, note)
  return dataclasses.field(default=default, metadata={'bounds': limits})


def choice(table: Mapping[str, type], default: Any) -> Any:
  """A field that holds one of the table's dataclasses."""
  return dataclasses.field(default=default, metadata={'choice': table})


def choices(table: Mapping[str, type], default: tuple[Any, ...] = ()) -> Any:
  """A field that holds a tuple of the table's dataclasses, one per name."""
  return dataclasses.field(default=default, metadata={'choices': table})


def named(names: Iterable[str], default: str) -> Any:
  """A field that holds one of the names, such as the keys of a table."""
  return dataclasses.field(default=default, metadata={'named': tuple(names)})
