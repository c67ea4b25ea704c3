"""The kinds of field of config dataclasses, with the values that they accept.

number(1, at_least=1)       A number and its bounds. The bounds hold alike in
                            a config file, a flag, and Python (by `Checked`).
choice(TABLE, Default())    One frozen dataclass out of a table. In the tree
                            it is a node with its `name` and its own keys;
                            `router.name=gshard` gives gshard's defaults.
choices(TABLE, (A(), B()))  Several dataclasses out of a table. In the tree
                            they are nodes by name in one node;
                            `balance.device_level=off` takes one out.
keyed(Source)               Dataclasses of one class under names that the user
                            chooses: `sources.web.rate=2` adds or changes the
                            one called web; `sources.web=off` takes it out.
named(TABLE, 'name')        The name of a table's entry that has no keys.
X | None                    A value that may be absent: `none` clears it, and
                            it can be set although it is None.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from moejax.core import bounds, table


class Checked:
  """Base class of dataclasses with `number` fields: checks their bounds.

  A subclass with a `__post_init__` of its own calls this one first.
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
    at_least: the smallest number allowed; or
    above: a number below all that are allowed.
    at_most: the largest number allowed; or
    below: a number above all that are allowed. Without `at_most` and `below`
      the largest int32 is allowed.
    note: meaning of a special value, for error lines.
  """
  if at_most is None and below is None:
    at_most = bounds.LARGEST
  limits = bounds.Bounds(at_least, above, at_most, below, note)
  return dataclasses.field(default=default, metadata={'bounds': limits})


def choice(table: Mapping[str, type], default: Any) -> Any:
  """A field that holds one of the table's dataclasses."""
  return dataclasses.field(default=default, metadata={'choice': table})


def chosen(node: Any, name: str) -> str:
  """The table's name of the dataclass that a `choice` field holds.

  Args:
    node: the dataclass that has the field.
    name: of the field.
  """
  choices_of = type(node).__dataclass_fields__[name].metadata['choice']
  return table.name_of(choices_of, getattr(node, name))


def choices(table: Mapping[str, type], default: tuple[Any, ...] = ()) -> Any:
  """A field that holds a tuple of the table's dataclasses, one per name."""
  return dataclasses.field(default=default, metadata={'choices': table})


def keyed(cls: type) -> Any:
  """A field that holds a tuple of dataclasses, one per name that a user chose.

  Args:
    cls: the dataclass. Its field `name` is a `node_name`.
  """
  return dataclasses.field(default=(), metadata={'keyed': cls})


def node_name() -> Any:
  """The field of a `keyed` dataclass that holds the name of its node.

  It is no key: the name is the node's place in the tree.
  """
  return dataclasses.field(default='', metadata={'node_name': True})


def named(names: Iterable[str], default: str) -> Any:
  """A field that holds one of the names, such as the keys of a table."""
  return dataclasses.field(default=default, metadata={'named': tuple(names)})
