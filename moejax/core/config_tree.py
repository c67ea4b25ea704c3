"""Config trees: frozen dataclasses hold the defaults, ConfigDicts edit them.

Every key of a run is a field of some dataclass, so every key has a type and
one default. A config file receives the whole tree as a `ConfigDict`, changes
keys, and returns it (`from_config_dict`, core/config_build.py). Flags change
single keys by their dotted path (`override_all`, core/config_flags.py). Both
are strict: the error for an unknown key names the nearest known one, and the
error for a wrong type names the key and its type.

core/fields.py has the kinds of field beyond plain values and nested
dataclasses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from moejax.core import config_build
from moejax.core import table as tables
from moejax.core.config_build import from_config_dict, to_dict
from moejax.core.config_flags import override, override_all

if TYPE_CHECKING:
  import ml_collections

__all__ = [
  'differences',
  'flatten',
  'from_config_dict',
  'override',
  'override_all',
  'to_config_dict',
  'to_dict',
]


def to_config_dict(obj: Any) -> ml_collections.ConfigDict:
  """The whole tree as a ConfigDict in which every key can be set."""
  import ml_collections
  from ml_collections import config_dict

  tree = ml_collections.ConfigDict()
  for field in config_build.keys_of(type(obj)):
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
    elif 'keyed' in field.metadata:
      tree[field.name] = ml_collections.ConfigDict({
        v.name: to_config_dict(v) for v in value
      })
    elif value is None:
      tree[field.name] = config_dict.placeholder(
        config_build.hint_of(type(obj), field.name)[0]
      )
    else:
      tree[field.name] = value
  return tree


def flatten(obj: Any) -> dict[str, Any]:
  """The value of every key by its dotted path, in the order of the fields."""
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
  """The keys on which two configs differ, each with its old and new value.

  A key that one of the two does not have has the value None there.
  """
  a, b = flatten(old), flatten(new)
  return {
    key: (a.get(key), b.get(key))
    for key in sorted(a.keys() | b.keys())
    if a.get(key) != b.get(key)
  }
