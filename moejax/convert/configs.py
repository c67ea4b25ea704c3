"""A config.json to a ModelConfig and back, by a family's keys."""

import dataclasses
from typing import Any

from moejax.convert.families import FAMILIES, unread
from moejax.convert.families.family import Family
from moejax.convert.keys import Key
from moejax.core import config_tree, errors
from moejax.model.config import ModelConfig

# Config keys that do not change what trained weights compute.
FREE = (
  'attention',
  'dtype',
  'init_std',
  'moe.balance',
  'moe.dispatcher',
  'moe.expert_parallel',
  'moe.experts.sigma_init',
  'moe.grouped_matmul',
  'moe.router.expert_dropout',
  'moe.scorer.balance_tau',
  'moe.scorer.start',
  'moe.scorer.std',
  'remat',
  'scan_unroll',
  'token_chunks',
)


class UnlikeError(errors.InputError):
  """A model that a family's models cannot be like.

  Attributes:
    number: number of keys or weights in which it differs.
  """

  def __init__(self, message: str, number: int):
    super().__init__(message)
    self.number = number


def family_of(theirs: dict[str, Any]) -> Family:
  """The family of a config.json.

  Raises:
    InputError: moejax has none of that model_type.
  """
  name = theirs.get('model_type')
  if name in FAMILIES:
    return FAMILIES[name]
  known = sorted(FAMILIES)
  listing = f'known are: {", ".join(known)}'
  if name is None:
    raise errors.InputError(f'config.json has no model_type; {listing}')
  if name in unread.LACKING:
    raise errors.InputError(
      f'moejax cannot read model_type {name!r} of config.json: moejax does not '
      f'have {unread.LACKING[name]}; {listing}'
    )
  meant = unread.slip(str(name), known)
  hint = f'; did you mean {meant!r}?' if meant else ';'
  raise errors.InputError(
    f'unknown model_type of config.json {name!r}{hint} {listing}'
  )


def filled(family: Family, theirs: dict[str, Any]) -> dict[str, Any]:
  """Their keys by their first names, with the family's defaults for the rest.

  Raises:
    InputError: two names of one key have two values.
  """
  keys = dict(theirs)
  for other, first in family.aliases.items():
    if other not in keys:
      continue
    value = keys.pop(other)
    if value is None:
      keys.setdefault(first, None)
      continue
    if keys.get(first) not in (None, value):
      raise errors.InputError(
        f'config.json has {first}={keys[first]} and {other}={value}, which '
        'are one key by two names; remove one'
      )
    keys[first] = value
  return {**family.defaults, **keys}


def read(family: Family, theirs: dict[str, Any]) -> ModelConfig:
  """Ours.

  Raises:
    InputError: a key is missing, or has a value that we have not.
  """
  flat: dict[str, Any] = {}
  theirs = filled(family, theirs)
  try:
    for key_map in family.keys:
      flat |= key_map.read(theirs)
    config = config_tree.from_config_dict(ModelConfig, _nested(flat))
  except KeyError as e:
    raise errors.InputError(f'config.json lacks {e.args[0]}') from None
  except (TypeError, ZeroDivisionError) as e:
    raise errors.InputError(f'config.json cannot be used: {e}') from None
  config.check()
  return config


def write(family: Family, model: ModelConfig) -> dict[str, Any]:
  """Theirs.

  Raises:
    InputError: no model of that family computes what this one does.
  """
  if bool(model.num_moe) != any(family.experts.values()):
    raise errors.InputError(
      f'a {family.model_type} cannot hold this model: it '
      f'{"has none of" if model.num_moe else "wants"} layers with experts'
    )
  ours = config_tree.flatten(model) | {
    'kinds': model.kinds,
    'num_kv_heads': model.kv_heads,
  }
  _check_has(family, ours)
  try:
    theirs = {
      'architectures': [family.architecture],
      'model_type': family.model_type,
    }
    for key_map in family.keys:
      theirs |= key_map.write(ours)
    reread = read(family, theirs)
  except (KeyError, TypeError) as e:
    raise errors.InputError(
      f'a {family.model_type} cannot hold this model: it has no {e}'
    ) from None
  except errors.InputError as e:
    raise errors.InputError(
      f'a {family.model_type} cannot hold this model: {e}'
    ) from None
  check_same(reread, model, f'a {family.model_type} cannot hold this model: it')
  return theirs


def _check_has(family: Family, ours: dict[str, Any]) -> None:
  """Raises InputError if the family wants what a part of ours lacks."""
  for key_map in family.keys:
    if isinstance(key_map, Key) and key_map.ours not in ours:
      parent = key_map.ours.rpartition('.')[0]
      raise errors.InputError(
        f'a {family.model_type} cannot hold this model: it needs model.'
        f'{key_map.ours}, which model.{parent}={ours.get(parent + ".name")} '
        'lacks'
      )


def check_same(theirs: ModelConfig, ours: ModelConfig, what: str) -> None:
  """Raises InputError unless two models are the same function of weights.

  Args:
    theirs: the one.
    ours: the other.
    what: begins the message: whose the first is.
  """
  a, b = _function(ours), _function(theirs)
  wrong = [k for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]
  # Of two different parts the fields differ, too, which says no more.
  parts = [key.removesuffix('name') for key in wrong if key.endswith('.name')]
  wrong = [
    f'model.{key}={b.get(key)!r}, not {a.get(key)!r}'
    for key in wrong
    if not any(key.startswith(p) and key != f'{p}name' for p in parts)
  ]
  if wrong:
    raise UnlikeError(f'{what} has {"; ".join(wrong)}', len(wrong))


def _function(model: ModelConfig) -> dict[str, Any]:
  """The keys that say what function trained weights are."""
  without = [] if model.num_dense else ['dense_width']
  if not model.num_moe:
    # Nor are there groups of layers.
    without += ['moe', 'first_dense', 'moe_every']
  elif not model.moe.num_shared:
    without += ['moe.shared']
  model = dataclasses.replace(model, num_kv_heads=model.kv_heads)
  flat = {
    key: value
    for key, value in config_tree.flatten(model).items()
    if not any(
      key == one or key.startswith(one + '.') for one in (*FREE, *without)
    )
  }
  if flat.get('heads.norm_eps') == 0:
    flat['heads.norm_eps'] = flat['norm_eps']
  if 'moe.num_shared' in flat:
    del flat['moe.num_shared']
    flat['moe.shared.width'] = model.moe.shared_width
  if not flat['scales.scores']:
    flat['scales.scores'] = model.head_dim**-0.5
  if len(set(flat['windows'])) == 1 and flat['windows'][0] == 0:
    flat['windows'] = []
  return flat


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
  """Dotted paths as nested dictionaries; later ones win.

  Example: {'a.b': 1, 'c': 2} -> {'a': {'b': 1}, 'c': 2}
  """
  tree: dict[str, Any] = {}
  for path, value in flat.items():
    *parents, last = path.split('.')
    node = tree
    for name in parents:
      node = node.setdefault(name, {})
    node[last] = value
  return tree
