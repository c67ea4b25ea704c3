"""Every config key with its type, default, range and meaning, as a list.

All of it is read where the key is defined: the type and the default from the
field of a dataclass, the range from its metadata (`core.fields`), the meaning
from `Attributes` of the docstring.
"""

import dataclasses
import functools
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from moejax.config.run import Run
from moejax.core import bounds, config_build, table

# Stands in a path for the name of a node that users choose.
NAME = 'NAME'


@dataclasses.dataclass(frozen=True)
class Key:
  """A config key.

  Attributes:
    path: dotted path, as in `--config.<path>=<value>`.
    type: int, float, bool, str, list of these, 'name' of one of several
      choices, or 'parts' that are on or off by name.
    default: its value where no config file and no flag sets it, JSON-ready.
    allowed: range of a number, or the names; '' where anything goes.
    meaning: what the key is.
    only_with: the choice that has the key, such as 'model.moe.router=top_k', or
      several, the outer one first; '' for a key that is always there.
  """

  path: str
  type: str
  default: Any
  allowed: str
  meaning: str
  only_with: str = ''


def keys() -> list[Key]:
  """All keys, in the order of their definition.

  A key of a choice that the default config makes has its value there, any other
  the default of the choice.
  """
  return [*_of_node(Run(), '', '')]


def _of_node(node: Any, prefix: str, only_with: str) -> Iterator[Key]:
  """The keys of a dataclass.

  Args:
    node: the dataclass.
    prefix: dotted path of the node, with a dot at its end; '' for the root.
    only_with: see `Key`.
  """
  node_type: type = type(node)
  for field in config_build.keys_of(node_type):
    path, value = prefix + field.name, getattr(node, field.name)
    meaning = meanings(node_type).get(field.name, '')
    if 'choice' in field.metadata:
      choices = field.metadata['choice']
      name = table.name_of(choices, value)
      names = ', '.join(sorted(choices))
      yield Key(path, 'name', name, names, meaning, only_with)
      for name, cls in sorted(choices.items()):
        own = value if type(value) is cls else cls()
        yield from _of_node(own, f'{path}.', _with(only_with, path, name))
    elif 'choices' in field.metadata:
      yield from _parts(field, value, path, meaning, only_with)
    elif 'keyed' in field.metadata:
      cls = field.metadata['keyed']
      place = f'{path}.{NAME}'
      yield Key(place, 'parts', [], 'any names', meaning, only_with)
      yield from _of_node(cls(name=NAME), f'{place}.', only_with)
    elif dataclasses.is_dataclass(value):
      yield from _of_node(value, f'{path}.', only_with)
    else:
      hint, optional = config_build.hint_of(node_type, field.name)
      kind = _kind(hint) + (' or none' if optional else '')
      value = list(value) if isinstance(value, tuple) else value
      yield Key(path, kind, value, _allowed(field), meaning, only_with)


def _parts(
  field: dataclasses.Field,
  value: tuple[Any, ...],
  path: str,
  meaning: str,
  only_with: str,
) -> Iterator[Key]:
  """The keys of parts that are on or off by name."""
  choices: Mapping[str, type] = field.metadata['choices']
  on = {table.name_of(choices, part): part for part in value}
  names = ', '.join(sorted(choices))
  yield Key(path, 'parts', sorted(on), names, meaning, only_with)
  for name, cls in sorted(choices.items()):
    part = on[name] if name in on else cls()
    place = f'{path}.{name}'
    about = _first_line(cls)
    yield Key(place, 'on or off', _on_off(name in on), '', about, only_with)
    yield from _of_node(part, f'{place}.', _with(only_with, place, 'on'))


def _with(outer: str, path: str, name: str) -> str:
  """A choice, behind those within which it is made."""
  return ', '.join(filter(None, (outer, f'{path}={name}')))


def _on_off(on: bool) -> str:
  return 'on' if on else 'off'


def _first_line(cls: type) -> str:
  return (inspect.getdoc(cls) or '').partition('\n')[0]


def _kind(hint: Any) -> str:
  """The type of a plain value, in words."""
  if typing.get_origin(hint) is tuple:
    return f'list of {typing.get_args(hint)[0].__name__}'
  return getattr(hint, '__name__', str(hint))


def _allowed(field: dataclasses.Field) -> str:
  """The range of a number, or the names of which a key takes one."""
  if 'named' in field.metadata:
    return ', '.join(field.metadata['named'])
  limits = bounds.of(field)
  return '' if limits is None else str(limits)


@functools.cache
def meanings(cls: type) -> dict[str, str]:
  """What each field of a dataclass is, by `Attributes` of its docstring.

  Docstrings of base classes are read as well; the nearest one wins.
  """
  found: dict[str, str] = {}
  for base in reversed(cls.__mro__):
    found |= _attributes(inspect.cleandoc(base.__doc__ or ''))
  return found


def _attributes(doc: str) -> dict[str, str]:
  """The entries of `Attributes` in a docstring.

  Example, for the lines `  a, b: two numbers`, `    of one kind.`:
    {'a': 'two numbers of one kind.', 'b': 'two numbers of one kind.'}
  """
  _, _, section = doc.partition('\nAttributes:\n')
  if not section:
    return {}
  lines = re.split(r'\n(?=\S)', section)[0]
  entries = re.split(r'^(?=\S)', textwrap.dedent(lines), flags=re.MULTILINE)
  found = {}
  for entry in filter(None, entries):
    names, _, meaning = entry.partition(':')
    for name in names.split(','):
      found[name.strip()] = ' '.join(meaning.split())
  return found
