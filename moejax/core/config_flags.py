"""Config keys set from the texts of flags, by their dotted paths."""

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from moejax.core import config_build, errors
from moejax.core import table as tables

T = TypeVar('T')
# Flags below one node of the config tree: texts by the rest of the dotted path.
_Texts = Mapping[tuple[str, ...], str]


def override(obj: T, path: str, text: str) -> T:
  """Sets the one key at a dotted path from the text of a flag.

  Example:
    override(run, 'opt.peak_lr', '3e-4')
    override(run, 'model.moe.router.name', 'gshard')
  """
  return override_all(obj, [(path, text)])


def override_all(obj: T, flags: Iterable[tuple[str, str]]) -> T:
  """Sets keys at dotted paths from the texts of flags, all at once.

  The order of the flags does not matter: the name of a choice is set before its
  keys, and bounds are checked after all keys are set.

  Example, in either order:
    override_all(run, [
      ('opt.schedule.warmup', '3'), ('opt.schedule.name', 'constant')
    ])

  Raises:
    InputError: as `from_config_dict`; a key with two different values; a key
      that the choice named by another flag does not have.
  """
  texts: dict[tuple[str, ...], str] = {}
  for path, text in flags:
    key = tuple(path.split('.'))
    if texts.setdefault(key, text) != text:
      raise _contradiction(f'{path}={texts[key]}', f'{path}={text}')
  return _override(obj, texts, '') if texts else obj


def _override(obj: Any, texts: _Texts, where: str) -> Any:
  cls = type(obj)
  changes = {}
  for head, rest in _by_head(texts).items():
    field = config_build.field_of(cls, head, where)
    value, place = getattr(obj, head), where + head
    if 'choice' in field.metadata:
      changes[head] = _override_choice(field, value, rest, place)
    elif 'choices' in field.metadata:
      changes[head] = _override_choices(field, value, rest, place)
    elif 'keyed' in field.metadata:
      changes[head] = _override_keyed(field, value, rest, place)
    elif dataclasses.is_dataclass(value):
      _need_keys(rest, place)
      changes[head] = _override(value, rest, place + '.')
    else:
      changes[head] = _override_value(cls, field, rest, place)
  return config_build.built_at(
    lambda: dataclasses.replace(obj, **changes), where
  )


def _by_head(texts: _Texts) -> dict[str, dict[tuple[str, ...], str]]:
  """Groups flags by the first name of their path.

  Example: {('a', 'b'): '1', ('c',): '2'} gives
    {'a': {('b',): '1'}, 'c': {(): '2'}}
  """
  grouped: dict[str, dict[tuple[str, ...], str]] = {}
  for path, text in texts.items():
    grouped.setdefault(path[0], {})[path[1:]] = text
  return grouped


def _need_keys(texts: _Texts, where: str, names: Iterable[str] = ()) -> None:
  if () in texts:
    config_build.need_node(texts[()], where, names)


def _override_value(
  cls: type, field: dataclasses.Field, texts: _Texts, where: str
) -> Any:
  for path in texts:
    if path:
      raise tables.unknown('config key', '.'.join([where, *path]), [where])
  text = texts[()]
  hint, optional = config_build.hint_of(cls, field.name)
  cleared = optional and text.lower() == 'none'
  parsed = None if cleared else _parse(text, hint, where)
  return config_build.build_field(cls, field, parsed, where)


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
  if not names:
    _check_choice(field.metadata['choice'], value, keys, where)
  return _override(value, keys, where + '.') if keys else value


def _check_choice(
  table: Mapping[str, Any], value: Any, texts: _Texts, where: str
) -> None:
  """Raises InputError for a key that only another choice has."""
  own = {f.name for f in config_build.keys_of(type(value))}
  for path, text in texts.items():
    owners = [
      name
      for name, cls in table.items()
      if path[0] in {f.name for f in config_build.keys_of(cls)}
    ]
    if owners and path[0] not in own:
      key, name = '.'.join([where, *path]), tables.name_of(table, value)
      raise errors.InputError(
        f'{key}={text} with {where}={name}, which has no such key: set '
        f'{where}.name to {" or ".join(owners)}, or leave the key out'
      )


def _override_choices(
  field: dataclasses.Field, value: Any, texts: _Texts, where: str
) -> Any:
  table = field.metadata['choices']
  _need_keys(texts, where, table)
  chosen = {type(v): v for v in value}
  for name, keys in _by_head(texts).items():
    place = f'{where}.{name}'
    cls = tables.lookup(where, table, name)
    if _is_on(keys, place):
      chosen.setdefault(cls, cls())
      chosen[cls] = _override(chosen[cls], keys, place + '.')
    else:
      chosen.pop(cls, None)
  return tuple(chosen[c] for c in table.values() if c in chosen)


def _override_keyed(
  field: dataclasses.Field, value: Any, texts: _Texts, where: str
) -> Any:
  cls = field.metadata['keyed']
  _need_keys(texts, where)
  chosen = {v.name: v for v in value}
  for name, keys in _by_head(texts).items():
    place = f'{where}.{name}'
    config_build.check_free_name(name, where)
    if _is_on(keys, place):
      default = chosen.get(name, cls(name=name))
      chosen[name] = _override(default, keys, place + '.')
    else:
      chosen.pop(name, None)
  return tuple(chosen[name] for name in sorted(chosen))


def _is_on(keys: dict[tuple[str, ...], str], place: str) -> bool:
  """Whether a node stays; removes its switch from the flags of the node."""
  switch = keys.pop((), 'on')
  if switch not in {'on', 'off'}:
    raise errors.InputError(f'{place} is on or off, not {switch!r}')
  if switch == 'off':
    for path, text in keys.items():
      key = '.'.join([place, *path])
      raise _contradiction(f'{place}=off', f'{key}={text}')
  return switch == 'on'


def _contradiction(one: str, other: str) -> errors.InputError:
  return errors.InputError(f'{one} and {other} contradict each other; give one')


def _parse(text: str, hint: Any, where: str) -> Any:
  """The text of a flag as a value of the type `hint`."""
  if typing.get_origin(hint) is tuple:
    inner = typing.get_args(hint)[0]
    items = [item.strip() for item in text.strip('()[]').split(',')]
    return tuple(_parse(item, inner, where) for item in items if item)
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
    raise config_build.wrong_type(text, hint, where) from None
