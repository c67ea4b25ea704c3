"""Frozen dataclasses hold the defaults; a ConfigDict is how they are edited.

Every key of a run is a field of some dataclass, so each exists, is typed and
has one default. A config file gets the whole tree as a `ConfigDict`, changes
what it wants, and gives it back; flags change single keys by their dotted path.
Both go through `from_config_dict` and `override`, the strict path: an unknown
key names the nearest right one, a wrong type names the key and the type.

core/fields.py has the kinds of field beyond plain values and nested
dataclasses.
"""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import ml_collections
from ml_collections import config_dict

from moejax.core import bounds, errors
from moejax.core import table as tables

T = TypeVar('T')


def to_dict(obj: Any) -> dict[str, Any]:
  """The whole tree as plain nested dictionaries, JSON-ready."""
  tree: dict[str, Any] = {}
  for field in dataclasses.fields(obj):
    value = getattr(obj, field.name)
    if 'choice' in field.metadata:
      name = tables.name_of(field.metadata['choice'], value)
      tree[field.name] = {'name': name, **to_dict(value)}
    elif 'choices' in field.metadata:
      table = field.metadata['choices']
      tree[field.name] = {tables.name_of(table, v): to_dict(v) for v in value}
    elif dataclasses.is_dataclass(value):
      tree[field.name] = to_dict(value)
    else:
      tree[field.name] = list(value) if isinstance(value, tuple) else value
  return tree


def to_config_dict(obj: Any) -> ml_collections.ConfigDict:
  """The whole tree as a ConfigDict in which every key can be set."""
  tree = ml_collections.ConfigDict()
  for field in dataclasses.fields(obj):
    value = getattr(obj, field.name)
    if dataclasses.is_dataclass(value):
      node = to_config_dict(value)
      if 'choice' in field.metadata:
        node = ml_collections.ConfigDict({
          'name': tables.name_of(field.metadata['choice'], value),
          **dict(node.items()),
        })
      tree[field.name] = node
    elif 'choices' in field.metadata:
      table = field.metadata['choices']
      tree[field.name] = ml_collections.ConfigDict({
        tables.name_of(table, v): to_config_dict(v) for v in value
      })
    elif value is None:
      tree[field.name] = config_dict.placeholder(
        _hint(type(obj), field.name)[0]
      )
    else:
      tree[field.name] = value
  return tree


def from_config_dict(
  cls: type[T], tree: ml_collections.ConfigDict | Mapping[str, Any]
) -> T:
  """Builds `cls` from a ConfigDict or a nested dictionary, checking all.

  Keys that are absent keep their defaults. A choice node may be partial: the
  keys it lacks are those of the named algorithm.

  Raises:
    InputError: an unknown key, a wrong type, or a name that is in no table.
  """
  return _build(cls, _plain(tree), '')


def override(obj: T, path: str, text: str) -> T:
  """Sets the one key at a dotted path from the text of a flag.

  Example:
    override(run, 'opt.peak_lr', '3e-4')
    override(run, 'model.moe.router.name', 'gshard')
  """
  return override_all(obj, [(path, text)])


def override_all(obj: T, flags: Iterable[tuple[str, str]]) -> T:
  """Sets keys at dotted paths from the texts of flags, all at once.

  The order of the flags does not matter: a choice is named before its keys are
  set, and ranges are checked when all keys are.

  Example, whatever comes first:
    override_all(run, [
      ('opt.schedule.warmup', '3'), ('opt.schedule.name', 'constant')
    ])

  Raises:
    InputError: as `from_config_dict`; a key that is given two values; a key of
      a choice that another flag does not choose.
  """
  texts: dict[tuple[str, ...], str] = {}
  for path, text in flags:
    key = tuple(path.split('.'))
    if texts.setdefault(key, text) != text:
      raise _contradiction(f'{path}={texts[key]}', f'{path}={text}')
  return _override(obj, texts, '') if texts else obj


def flatten(obj: Any) -> dict[str, Any]:
  """Every key by its dotted path, in the order of the fields."""
  flat = {}

  def walk(tree: Mapping[str, Any], prefix: str) -> None:
    for key, value in tree.items():
      if isinstance(value, dict):
        walk(value, f'{prefix}{key}.')
      else:
        flat[prefix + key] = value

  walk(to_dict(obj), '')
  return flat


def differences(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
  """The keys on which two configs differ, with both values."""
  a, b = flatten(old), flatten(new)
  return {
    key: (a.get(key), b.get(key))
    for key in sorted(a.keys() | b.keys())
    if a.get(key) != b.get(key)
  }


def _plain(tree: Any) -> Any:
  """A ConfigDict as nested dictionaries, placeholders as None."""
  if isinstance(tree, ml_collections.ConfigDict):
    tree = tree.to_dict()
  if isinstance(tree, Mapping):
    return {key: _plain(value) for key, value in tree.items()}
  return tree


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
  return typing.get_type_hints(cls)


def _hint(cls: type, name: str) -> tuple[Any, bool]:
  """The type of a field, and whether it may be None."""
  hint = _hints(cls)[name]
  if isinstance(hint, types.UnionType):
    (inner,) = (a for a in typing.get_args(hint) if a is not type(None))
    return inner, True
  return hint, False


def _field(cls: type, name: str, where: str) -> dataclasses.Field:
  fields = {f.name: f for f in dataclasses.fields(cls)}
  if name not in fields:
    raise tables.unknown(
      'config key', where + name, [where + f for f in fields]
    )
  return fields[name]


def _build(cls: type, tree: Mapping[str, Any], where: str) -> Any:
  values = {}
  for key, value in tree.items():
    field = _field(cls, key, where)
    values[key] = _build_field(cls, field, value, where + key)
  return _made(lambda: cls(**values), where)


def _made(make: Callable[[], T], where: str) -> T:
  """A dataclass whose parts fit together, or an error that says where."""
  try:
    return make()
  except errors.InputError as e:
    place = f'{where[:-1]}: ' if where else ''
    raise errors.InputError(f'{place}{e}') from None


def _build_field(
  cls: type, field: dataclasses.Field, value: Any, where: str
) -> Any:
  hint, optional = _hint(cls, field.name)
  if 'choice' in field.metadata:
    return _build_choice(field, value, where)
  if 'choices' in field.metadata:
    return _build_choices(field.metadata['choices'], value, where)
  if isinstance(hint, type) and dataclasses.is_dataclass(hint):
    _need_node(value, where)
    return _build(hint, value, where + '.')
  if value is None and optional:
    return None
  value = _checked(value, hint, where)
  bounds.check(field, value, where)
  if 'named' in field.metadata and value not in field.metadata['named']:
    raise tables.unknown(where, value, field.metadata['named'])
  return value


def _build_choice(field: dataclasses.Field, value: Any, where: str) -> Any:
  """A choice from its node; without a name it is the default's algorithm."""
  table = field.metadata['choice']
  _need_node(value, where)
  rest = dict(value)
  usual = tables.name_of(table, field.default)
  name = rest.pop('name', None) or usual
  cls = tables.lookup(where, table, name)
  if name != usual:
    # A config file that sets only the name leaves the default's keys behind.
    left = to_dict(field.default)
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
  """In the order of the table: a ConfigDict sorts its keys."""
  _need_node(value, where)
  for name, node in value.items():
    tables.lookup(where, table, name)
    _need_node(node, f'{where}.{name}')
  return tuple(
    _build(table[name], value[name], f'{where}.{name}.')
    for name in table
    if name in value
  )


def _need_node(value: Any, where: str) -> None:
  if not isinstance(value, Mapping):
    raise errors.InputError(
      f'config key {where!r} is a group of keys, not {value!r}: set one of them'
    )


def _checked(value: Any, hint: Any, where: str) -> Any:
  """The value, if it is of the type; an int is also a float."""
  if typing.get_origin(hint) is tuple:
    inner = typing.get_args(hint)[0]
    if not isinstance(value, (list, tuple)):
      raise _wrong_type(value, hint, where)
    return tuple(_checked(v, inner, where) for v in value)
  if hint is float and type(value) is int:
    return float(value)
  if type(value) is not hint:
    raise _wrong_type(value, hint, where)
  if hint is float and not math.isfinite(value):
    raise errors.InputError(f'config key {where!r} must be finite: {value}')
  return value


def _wrong_type(value: Any, hint: Any, where: str) -> errors.InputError:
  name = getattr(hint, '__name__', str(hint))
  if typing.get_origin(hint) is tuple:
    name = f'list of {typing.get_args(hint)[0].__name__}, such as 1,2'
  return errors.InputError(
    f'config key {where!r} wants {_article(name)} {name}, not {value!r}'
  )


def _article(word: str) -> str:
  return 'an' if word[0] in 'aeiou' else 'a'


# What flags say of one node: texts by the rest of their dotted paths.
_Texts = Mapping[tuple[str, ...], str]


def _override(obj: Any, texts: _Texts, where: str) -> Any:
  cls = type(obj)
  changes = {}
  for head, rest in _by_head(texts).items():
    field = _field(cls, head, where)
    value, place = getattr(obj, head), where + head
    if 'choice' in field.metadata:
      changes[head] = _override_choice(field, value, rest, place)
    elif 'choices' in field.metadata:
      changes[head] = _override_choices(field, value, rest, place)
    elif dataclasses.is_dataclass(value):
      _need_keys(rest, place)
      changes[head] = _override(value, rest, place + '.')
    else:
      changes[head] = _override_value(cls, field, rest, place)
  return _made(lambda: dataclasses.replace(obj, **changes), where)


def _by_head(texts: _Texts) -> dict[str, dict[tuple[str, ...], str]]:
  """Flags by the first part of their path; () is the part's own text."""
  found: dict[str, dict[tuple[str, ...], str]] = {}
  for path, text in texts.items():
    found.setdefault(path[0], {})[path[1:]] = text
  return found


def _need_keys(texts: _Texts, where: str) -> None:
  if () in texts:
    _need_node(texts[()], where)


def _override_value(
  cls: type, field: dataclasses.Field, texts: _Texts, where: str
) -> Any:
  for path in texts:
    if path:
      raise tables.unknown('config key', '.'.join([where, *path]), [where])
  text = texts[()]
  hint, optional = _hint(cls, field.name)
  cleared = optional and text.lower() == 'none'
  parsed = None if cleared else _parse(text, hint, where)
  return _build_field(cls, field, parsed, where)


def _override_choice(
  field: dataclasses.Field, value: Any, texts: _Texts, where: str
) -> Any:
  names = {p: t for p, t in texts.items() if p in {(), ('name',)}}
  keys = {p: t for p, t in texts.items() if p not in names}
  if len(set(names.values())) > 1:
    raise _contradiction(
      f'{where}={names[()]}', f'{where}.name={names["name",]}'
    )
  for name in names.values():
    cls = tables.lookup(where, field.metadata['choice'], name)
    value = value if type(value) is cls else cls()
    known = {f.name for f in dataclasses.fields(cls)}
    for path, text in keys.items():
      if path[0] not in known:
        key = '.'.join([where, *path])
        e = tables.unknown('key', path[0], known)
        raise errors.InputError(f'{key}={text} with {where}={name}: {e}')
  return _override(value, keys, where + '.') if keys else value


def _override_choices(
  field: dataclasses.Field, value: Any, texts: _Texts, where: str
) -> Any:
  table = field.metadata['choices']
  _need_keys(texts, where)
  parts = {type(v): v for v in value}
  for name, keys in _by_head(texts).items():
    place = f'{where}.{name}'
    cls = tables.lookup(where, table, name)
    switch = keys.pop((), 'on')
    if switch not in {'on', 'off'}:
      raise errors.InputError(f'{place} is on or off, not {switch!r}')
    if switch == 'on':
      parts.setdefault(cls, cls())
      parts[cls] = _override(parts[cls], keys, place + '.')
      continue
    for path, text in keys.items():
      key = '.'.join([place, *path])
      raise _contradiction(f'{place}=off', f'{key}={text}')
    parts.pop(cls, None)
  return tuple(parts[c] for c in table.values() if c in parts)


def _contradiction(one: str, other: str) -> errors.InputError:
  return errors.InputError(f'{one} and {other} contradict each other; give one')


def _parse(text: str, hint: Any, where: str) -> Any:
  """The text of a flag as a value of the type."""
  if typing.get_origin(hint) is tuple:
    inner = typing.get_args(hint)[0]
    parts = [p for p in text.strip('()[]').split(',') if p.strip()]
    return tuple(_parse(p.strip(), inner, where) for p in parts)
  if hint is bool:
    words = {'true': True, 'false': False, '1': True, '0': False}
    if text.lower() not in words:
      raise errors.InputError(
        f'config key {where!r} is true or false: {text!r}'
      )
    return words[text.lower()]
  if hint is str:
    return text
  try:
    return hint(text)
  except ValueError:
    raise _wrong_type(text, hint, where) from None
