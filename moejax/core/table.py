"""Look-up of a name from a config in a table of choices.

A table is a plain dictionary in the `__init__.py` of the folder whose choices
it lists, from name to frozen dataclass, or to function for a choice without
keys. There are no decorators that register choices elsewhere: the table has
them all.
"""

import difflib
from collections.abc import Hashable, Mapping
from typing import Any

from moejax.core import errors

# Attribute of a class that `add` has put into a table: its name there.
ADDED = 'added_as'


def unknown(kind: str, name: Any, known: Any) -> errors.InputError:
  """An error that lists a value, the nearest known name, and all known names.

  Args:
    kind: what the name stands for, such as 'router'.
    name: the unknown name.
    known: all known names.

  Example:
    unknown router 'topk'; did you mean 'top_k'? known are: gshard, top_k
  """
  names = sorted(map(str, known))
  near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
  hint = f'; did you mean {near[0]!r}?' if near else ';'
  listing = ', '.join(names) or '(none)'
  return errors.InputError(
    f'unknown {kind} {name!r}{hint} known are: {listing}'
  )


def lookup(kind: str, table: Mapping[str, Any], name: str) -> Any:
  """The table's entry called `name`.

  Raises:
    InputError: the table has no such entry; see `unknown`.
  """
  # A JSON file may have a list there, which no table can be asked for.
  if not isinstance(name, Hashable) or name not in table:
    raise unknown(kind, name, table)
  return table[name]


def make(kind: str, table: Mapping[str, type], spec: Mapping[str, Any]) -> Any:
  """Builds a dataclass of a table from `{'name': ..., **fields}`.

  Raises:
    InputError: no name, or a name or a field that is not known.
  """
  fields = dict(spec)
  if 'name' not in fields:
    raise errors.InputError(
      f'{kind} {fields!r} has no name; known are: {", ".join(sorted(table))}'
    )
  cls = lookup(kind, table, fields.pop('name'))
  known = cls.__dataclass_fields__
  for key in fields:
    if key not in known:
      raise unknown(f'key of {kind} {spec["name"]!r}', key, known)
  return cls(**fields)


def add(table: dict[str, Any], name: str, cls: type) -> None:
  """Adds a class that is not moejax's own; it replaces another such class."""
  table[name] = cls
  setattr(cls, ADDED, name)


def is_added(cls: Any) -> bool:
  """Whether a class was put into a table by `add`."""
  return ADDED in vars(cls)


def name_of(table: Mapping[str, type], entry: Any) -> str:
  """The name under which the table has, or had, the class of `entry`.

  Raises:
    KeyError: the class was never in the table.
  """
  for name, cls in table.items():
    if cls is type(entry):
      return name
  if is_added(type(entry)):  # and replaced since
    return getattr(type(entry), ADDED)
  raise KeyError(f'{type(entry).__name__} is in no line of the table')
