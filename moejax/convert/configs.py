"""Converts a config.json to a ModelConfig and back, by the keys of a family."""

import dataclasses
from typing import Any

from moejax.convert.families import FAMILIES, unread
from moejax.convert.families.family import Family
from moejax.convert.keys import Key
from moejax.core import config_tree, errors, trees
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
  'vision.encoder.dtype',
  'vision.encoder.init_std',
  'vision.projector.init_std',
)


class UnlikeError(errors.InputError):
  """A family has no model that computes what the given one does.

  Attributes:
    number: number of config keys or weights that differ; `save.plan` names the
      family with the fewest as the nearest.
  """

  def __init__(self, message: str, number: int):
    super().__init__(message)
    self.number = number


def family_of(theirs: dict[str, Any]) -> Family:
  """The family that the model_type of a config.json names.

  Raises:
    InputError: there is no model_type, or moejax has no family of that name.
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
  if name in unread.COMMANDS:
    raise errors.InputError(
      f'model_type {name!r} of config.json is no language model: '
      f'{unread.COMMANDS[name]} reads it'
    )
  likely = unread.slip(str(name), known)
  hint = f'; did you mean {likely!r}?' if likely else ';'
  raise errors.InputError(
    f'unknown model_type of config.json {name!r}{hint} {listing}'
  )


def filled(family: Family, theirs: dict[str, Any]) -> dict[str, Any]:
  """A config.json with first names for aliases, and with the family's defaults.

  Args:
    family: the family, whose `aliases` and `defaults` are used.
    theirs: content of config.json.

  Raises:
    InputError: a key has two values, by two of its names.
  """
  keys = dict(theirs)
  for alias, first in family.aliases.items():
    if alias not in keys:
      continue
    value = keys.pop(alias)
    if value is None:
      keys.setdefault(first, None)
      continue
    if keys.get(first) not in (None, value):
      raise errors.InputError(
        f'config.json has {first}={keys[first]} and {alias}={value}, which '
        'are one key by two names; remove one'
      )
    keys[first] = value
  return {**family.defaults, **keys}


def read(family: Family, theirs: dict[str, Any]) -> ModelConfig:
  """The ModelConfig of a config.json.

  Raises:
    InputError: a key is missing, or has a value that moejax does not support.
  """
  flat: dict[str, Any] = {}
  theirs = filled(family, theirs)
  try:
    for key_map in family.keys:
      flat |= key_map.read(theirs)
    config = config_tree.from_config_dict(ModelConfig, trees.nest(flat, '.'))
  except KeyError as e:
    raise errors.InputError(f'config.json lacks {e.args[0]}') from None
  except (TypeError, ZeroDivisionError) as e:
    raise errors.InputError(f'config.json cannot be used: {e}') from None
  config.check()
  return config


def write(family: Family, model: ModelConfig) -> dict[str, Any]:
  """The config.json of a model, without ids of special tokens.

  It is read back and compared with `model`, so whatever the family cannot
  express is noticed here and not when the folder is used.

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
  """Raises InputError if the family needs a config key that the model lacks.

  A key is lacking if the class that its parent key names has no such field.
  """
  for key_map in family.keys:
    if isinstance(key_map, Key) and key_map.ours not in ours:
      parent = key_map.ours.rpartition('.')[0]
      raise errors.InputError(
        f'a {family.model_type} cannot hold this model: it needs model.'
        f'{key_map.ours}, which model.{parent}={ours.get(parent + ".name")} '
        'lacks'
      )


def check_same(theirs: ModelConfig, ours: ModelConfig, subject: str) -> None:
  """Checks that two models compute the same from the same weights.

  Args:
    theirs: the model to check.
    ours: the model that it must equal.
    subject: subject of the message, which names `theirs`: '... has KEY=VALUE,
      not VALUE'.

  Raises:
    UnlikeError: they differ; it names the keys.
  """
  a, b = _function(ours), _function(theirs)
  keys = [k for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]
  # If the class of a component differs, its fields differ as well; only the
  # class is named.
  parents = [key.removesuffix('name') for key in keys if key.endswith('.name')]
  differences = [
    f'model.{key}={b.get(key)!r}, not {a.get(key)!r}'
    for key in keys
    if not any(key.startswith(p) and key != f'{p}name' for p in parents)
  ]
  if differences:
    message = f'{subject} has {"; ".join(differences)}'
    raise UnlikeError(message, len(differences))


def _function(model: ModelConfig) -> dict[str, Any]:
  """The keys that determine what trained weights compute, in a normal form."""
  without = [] if model.num_dense else ['dense_width']
  if not model.num_moe:
    # Without MoE layers, the keys that place them mean nothing either.
    without += ['moe', 'first_dense', 'moe_every']
  elif not model.moe.num_shared:
    without += ['moe.shared']
  model = dataclasses.replace(model, num_kv_heads=model.kv_heads)
  flat = {
    key: value
    for key, value in config_tree.flatten(model).items()
    if not any(
      key == free or key.startswith(free + '.') for free in (*FREE, *without)
    )
  }
  if flat.get('vision.projector.hidden_width') == 0:
    flat['vision.projector.hidden_width'] = model.width
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
