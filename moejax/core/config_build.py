"""Conversion of config dataclasses to nested dictionaries, and checked back."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from moejax.core import bounds, errors, home
from moejax.core import table as tables

if TYPE_CHECKING:
  import ml_collections

T = TypeVar('T')


def to_dict(obj: Any) -> dict[str, Any]:
  """The whole tree as plain nested dictionaries, JSON-ready."""
  tree: dict[str, Any] = {}
  for field in keys_of(type(obj)):
    value = getattr(obj, field.name)
    if 'choice' in field.metadata:
      name = tables.name_of(field.metadata['choice'], value)
      tree[field.name] = {'name': name, **to_dict(value)}
    elif 'choices' in field.metadata:
      table = field.metadata['choices']
      tree[field.name] = {tables.name_of(table, v): to_dict(v) for v in value}
    elif 'keyed' in field.metadata:
      tree[field.name] = {v.name: to_dict(v) for v in value}
    elif dataclasses.is_dataclass(value):
      tree[field.name] = to_dict(value)
    else:
      tree[field.name] = list(value) if isinstance(value, tuple) else value
  return tree


def from_config_dict(
  cls: type[T], tree: ml_collections.ConfigDict | Mapping[str, Any]
) -> T:
  """Builds `cls` from a ConfigDict or a nested dictionary, and checks all keys.

  Absent keys keep their defaults. A choice with a `name` has the defaults of
  the dataclass that is named. A choice without one keeps the field's default
  for its absent keys, as flags do that set a choice's keys and not its name.

  Example, with `alpha: Scorer = choice(SCORERS, Linear(bias=True))`:
    {'alpha': {'std': 0.1}}                    Linear(bias=True, std=0.1)
    {'alpha': {'name': 'linear', 'std': 0.1}}  Linear(std=0.1)

  Raises:
    InputError: an unknown key, a wrong type, a number out of its bounds, or a
      name that is in no table.
  """
  return _build(cls, _plain(tree), '')


def _plain(tree: Any) -> Any:
  """A ConfigDict as nested dictionaries, placeholders as None."""
  if hasattr(tree, 'to_dict'):
    tree = tree.to_dict()
  if isinstance(tree, Mapping):
    return {key: _plain(value) for key, value in tree.items()}
  return tree


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
  return typing.get_type_hints(cls)


def hint_of(cls: type, name: str) -> tuple[Any, bool]:
  """The type of a field, and whether it may be None."""
  hint = _hints(cls)[name]
  if isinstance(hint, types.UnionType):
    (inner,) = (a for a in typing.get_args(hint) if a is not type(None))
    return inner, True
  return hint, False


def keys_of(cls: type) -> list[dataclasses.Field]:
  """The fields of a dataclass that are keys of its node."""
  return [
    field
    for field in dataclasses.fields(cls)
    if 'node_name' not in field.metadata
  ]


def field_of(cls: type, name: str, where: str) -> dataclasses.Field:
  """The field called `name`, or an InputError that names the nearest one."""
  fields = {f.name: f for f in keys_of(cls)}
  if name not in fields:
    raise tables.unknown(
      'config key', where + name, [where + f for f in fields]
    )
  return fields[name]


def _build(
  cls: type, tree: Mapping[str, Any], where: str, default: Any = None
) -> Any:
  """A dataclass from its node.

  Args:
    cls: the dataclass.
    tree: the node.
    where: dotted path of the node, with a dot at its end; '' for the root.
    default: an object of the class, which has the values of absent keys; None:
      they have the defaults of the class.
  """
  values = {}
  for key, value in tree.items():
    field = field_of(cls, key, where)
    usual = field.default if default is None else getattr(default, key)
    values[key] = build_field(cls, field, value, where + key, usual)
  if default is None:
    return built_at(lambda: cls(**values), where)
  return built_at(lambda: dataclasses.replace(default, **values), where)


def built_at(make: Callable[[], T], where: str) -> T:
  """Calls `make`, and puts the path of its node before an InputError.

  Args:
    make: builds a dataclass, which may check that its fields fit together.
    where: dotted path of the node, with a dot at its end; '' for the root.
  """
  try:
    return make()
  except errors.InputError as e:
    place = f'{where[:-1]}: ' if where else ''
    raise errors.InputError(f'{place}{e}') from None


def build_field(
  cls: type,
  field: dataclasses.Field,
  value: Any,
  where: str,
  default: Any = None,
) -> Any:
  """The value of a field, checked.

  Args:
    cls: the dataclass that has the field.
    field: the field.
    value: a plain value, or the field's node.
    where: dotted path of the field.
    default: the object that a node changes.
  """
  hint, optional = hint_of(cls, field.name)
  if 'choice' in field.metadata:
    return _build_choice(field, value, where, default)
  if 'choices' in field.metadata:
    return _build_choices(field.metadata['choices'], value, where)
  if 'keyed' in field.metadata:
    return _build_keyed(field.metadata['keyed'], value, where)
  if isinstance(hint, type) and dataclasses.is_dataclass(hint):
    need_node(value, where)
    return _build(hint, value, where + '.', default)
  if value is None and optional:
    return None
  value = _checked(value, hint, where)
  bounds.check(field, value, where)
  if 'named' in field.metadata and value not in field.metadata['named']:
    raise tables.unknown(where, value, field.metadata['named'])
  return value


def _build_choice(
  field: dataclasses.Field, value: Any, where: str, default: Any
) -> Any:
  """A choice from its node; without a name, the default with changed keys."""
  table = field.metadata['choice']
  need_node(value, where)
  rest = dict(value)
  name = rest.pop('name', None)
  if not name:
    return _build(type(default), rest, where + '.', default)
  cls = tables.lookup(where, table, name)
  if cls is not type(default):
    # A config file that sets only the name leaves the keys of the default in
    # the node. Those whose value is unchanged are dropped.
    left = to_dict(default)
    known = {f.name for f in dataclasses.fields(cls)}
    rest = {
      key: value
      for key, value in rest.items()
      if key in known or key not in left or value != left[key]
    }
  return _build(cls, rest, where + '.')


def _build_choices(
  table: Mapping[str, Any], value: Any, where: str
) -> tuple[Any, ...]:
  """Choices from their nodes, in the table's order: a ConfigDict sorts keys."""
  need_node(value, where, table)
  for name, node in value.items():
    tables.lookup(where, table, name)
    need_node(node, f'{where}.{name}')
  return tuple(
    _build(table[name], value[name], f'{where}.{name}.')
    for name in table
    if name in value
  )


def _build_keyed(cls: type, value: Any, where: str) -> tuple[Any, ...]:
  """Dataclasses from their nodes, in the order of their names."""
  need_node(value, where)
  built = []
  for name in sorted(value):
    place = f'{where}.{name}'
    need_node(value[name], place)
    check_free_name(name, where)
    default = built_at(functools.partial(cls, name=name), f'{place}.')
    built.append(_build(cls, value[name], f'{place}.', default))
  return tuple(built)


def check_free_name(name: str, where: str) -> None:
  """Raises InputError if a name that a user chose would not fit into a path."""
  if not re.fullmatch(r'[A-Za-z0-9_-]+', name):
    raise errors.InputError(
      f'{where}: the name {name!r} may have letters, digits, _ and - only'
    )


def need_node(value: Any, where: str, names: Iterable[str] = ()) -> None:
  """Raises InputError unless a value is a group of keys.

  Args:
    value: the value.
    where: dotted path of the key.
    names: the nodes that the group may have, each of which is on or off.
  """
  if isinstance(value, Mapping):
    return
  known = {*names}
  words = value.split(',') if isinstance(value, str) and value else []
  for word in words if known else ():
    if word not in known:
      raise tables.unknown(where, word, known)
  if words and known:
    remedy = ' and '.join(f'{where}.{word}=on' for word in words)
    raise errors.InputError(
      f'{where}={value}: each of its parts is on or off by itself; set {remedy}'
    )
  raise errors.InputError(
    f'config key {where!r} is a group of keys, not {value!r}: set one of them'
  )


def _checked(value: Any, hint: Any, where: str) -> Any:
  """The value, if it is of the type; an int is also a float."""
  if typing.get_origin(hint) is tuple:
    inner = typing.get_args(hint)[0]
    if not isinstance(value, (list, tuple)):
      raise wrong_type(value, hint, where)
    return tuple(_checked(v, inner, where) for v in value)
  if hint is float and type(value) is int:
    return float(value)
  if type(value) is not hint:
    raise wrong_type(value, hint, where)
  if hint is str:
    return home.at_home(value)
  if hint is float and not math.isfinite(value):
    raise errors.InputError(f'config key {where!r} must be finite: {value}')
  return value


def wrong_type(value: Any, hint: Any, where: str) -> errors.InputError:
  """The error that the key at `where` wants another type."""
  name = getattr(hint, '__name__', str(hint))
  if typing.get_origin(hint) is tuple:
    name = f'list of {typing.get_args(hint)[0].__name__}, such as 1,2'
  return errors.InputError(
    f'config key {where!r} wants {_article(name)} {name}, not {value!r}'
  )


def _article(word: str) -> str:
  return 'an' if word[0] in 'aeiou' else 'a'
