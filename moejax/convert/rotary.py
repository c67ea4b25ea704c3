"""Keys of rotary positions: `rope_theta`, `rope_scaling`, `rope_parameters`.

The first two are of transformers 4, the last of 5; all are read, and written.
What keys mean that are left out, or null, is what transformers' classes and its
`modeling_rope_utils` make of them.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from moejax.convert.keys import KeyMap, Keys
from moejax.core import errors, table
from moejax.model.attention.rope_scaling import YarnScaling

Values = dict[str, Any]
ORIGINAL = 'original_max_position_embeddings'


@dataclasses.dataclass(frozen=True)
class Stretching:
  """What a config.json says of how positions are stretched.

  Attributes:
    keys: entries of `rope_scaling`.
    most: `max_position_embeddings`.
    original: the same of the model before, where it stands outside.
    scores: whether `mscale_all_dim` multiplies scores.
  """

  keys: Keys
  most: int
  original: int | None
  scores: bool

  def number(self, name: str) -> float:
    """A key that must be there.

    Raises:
      InputError: the key is missing, or its value is no number.
    """
    value = self.keys.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
      says = f'has rope_scaling.{name}={value}' if name in self.keys else None
      raise errors.InputError(
        f'config.json {says or f"lacks rope_scaling.{name}"}; give it a number'
      )
    return float(value)

  def numbers(self, name: str) -> list[float]:
    """A key that must be a list of numbers."""
    value = self.keys.get(name)
    if not isinstance(value, list):
      raise errors.InputError(
        f'config.json has rope_scaling.{name}={value}; it must be a list of '
        'numbers, one for each pair of features'
      )
    return [float(x) for x in value]

  @property
  def length(self) -> int:
    """Tokens that the model was trained on before it was stretched."""
    if self.original is not None:
      return self.original
    if ORIGINAL in self.keys:
      return int(self.number(ORIGINAL))
    return self.most

  def factor(self, *, needed: bool) -> float:
    """Times that length; null is the ratio of the two lengths."""
    if self.keys.get('factor') is None and (
      'factor' in self.keys or not needed
    ):
      return self.most / self.length
    return self.number('factor')


def _plain(of: Stretching) -> Values:
  del of
  return {}


def _linear(of: Stretching) -> Values:
  return {'factor': of.number('factor')}


def _dynamic(of: Stretching) -> Values:
  return {'factor': of.number('factor'), 'length': of.most}


def _llama3(of: Stretching) -> Values:
  return {
    'factor': of.number('factor'),
    'low': of.number('low_freq_factor'),
    'high': of.number('high_freq_factor'),
    'length': of.length,
  }


def _yarn(of: Stretching) -> Values:
  found: dict[str, Any] = {
    'factor': of.factor(needed=True),
    'length': of.length,
    # 0 is as good as nothing.
    'beta_fast': float(of.keys.get('beta_fast') or 32),
    'beta_slow': float(of.keys.get('beta_slow') or 1),
    'mscale': float(of.keys.get('mscale') or 0),
    'mscale_all': float(of.keys.get('mscale_all_dim') or 0),
    'whole': bool(of.keys.get('truncate', True)),
  }
  said = of.keys.get('attention_factor')
  made = YarnScaling(**found).amplitude if said is None else float(said)
  if not of.scores:
    # They are for cos and sin alone.
    found |= {'mscale': 0.0, 'mscale_all': 0.0}
  if not math.isclose(made, YarnScaling(**found).amplitude, rel_tol=1e-12):
    found['attention_factor'] = made
  return found


def _longrope(of: Stretching) -> Values:
  factor, said = of.factor(needed=False), of.keys.get('attention_factor')
  if said is None:
    longer = math.log(factor) / math.log(of.length) if factor > 1 else 0.0
    said = math.sqrt(1 + longer)
  return {
    'short': of.numbers('short_factor'),
    'long': of.numbers('long_factor'),
    'length': of.length,
    'attention_factor': float(said),
  }


@dataclasses.dataclass(frozen=True)
class Kind:
  """One `rope_type`.

  Attributes:
    name: ours.
    read: our keys of theirs.
    written: their names of our keys.
  """

  name: str
  read: Callable[[Stretching], Values]
  written: dict[str, str]


KINDS = {
  'default': Kind('none', _plain, {}),
  'linear': Kind('linear', _linear, {'factor': 'factor'}),
  'dynamic': Kind('dynamic', _dynamic, {'factor': 'factor'}),
  'llama3': Kind(
    'llama3',
    _llama3,
    {
      'factor': 'factor',
      'low': 'low_freq_factor',
      'high': 'high_freq_factor',
      'length': ORIGINAL,
    },
  ),
  'yarn': Kind(
    'yarn',
    _yarn,
    {
      'factor': 'factor',
      'length': ORIGINAL,
      'beta_fast': 'beta_fast',
      'beta_slow': 'beta_slow',
      'mscale': 'mscale',
      'mscale_all': 'mscale_all_dim',
      'attention_factor': 'attention_factor',
      'whole': 'truncate',
    },
  ),
  'longrope': Kind(
    'longrope',
    _longrope,
    {
      'short': 'short_factor',
      'long': 'long_factor',
      'length': ORIGINAL,
      'attention_factor': 'attention_factor',
    },
  ),
}
# Our keys that are not written where they are 0.
OPTIONAL = ('mscale', 'mscale_all', 'attention_factor')


@dataclasses.dataclass(frozen=True)
class Rotary(KeyMap):
  """Rotary positions.

  Attributes:
    partial: whether the class turns a part of a head's features only where
      `partial_rotary_factor` says so; classes that do not ignore that key.
    scores: whether `mscale_all_dim` multiplies scores, as with latent heads.
    null: the scaling of a config that has none.
    features: the key that gives that part in features, or ''.
  """

  partial: bool = False
  scores: bool = False
  null: Keys = dataclasses.field(default_factory=dict)
  features: str = ''

  @property
  def names(self) -> tuple[str, ...]:
    keys = ('rope_scaling', 'rope_parameters', 'rope_theta', ORIGINAL)
    return (*keys, *filter(None, ('partial_rotary_factor', self.features)))

  def read(self, theirs: Keys) -> dict[str, Any]:
    found = theirs['rope_scaling'] or theirs['rope_parameters']
    found = self.null if found is None else found
    name = found.get('rope_type', found.get('type', 'default'))
    kind = table.lookup('rope_type of config.json', KINDS, name)
    if found.get('mscale_all_dim') and self.scores and name != 'yarn':
      raise errors.InputError(
        'config.json has rope_scaling.mscale_all_dim, which moejax has with '
        f'rope_type=yarn alone, not with {name}'
      )
    theta = found.get('rope_theta', theirs['rope_theta'])
    if theta is None:
      raise errors.InputError('config.json has rope_theta=null; give a number')
    stretching = Stretching(
      found, theirs['max_position_embeddings'], theirs[ORIGINAL], self.scores
    )
    return {
      'rope.base': float(theta),
      'rope.share': self._share(found, theirs, name),
      'rope.scaling': {'name': kind.name, **kind.read(stretching)},
    }

  def _share(self, found: Keys, theirs: Keys, kind: str) -> float:
    share = theirs['partial_rotary_factor']
    if self.features and theirs[self.features] is not None and share is None:
      share = theirs[self.features] / theirs['head_dim']
    share = found.get('partial_rotary_factor', share)
    share = 1.0 if share is None else float(share)
    if self.partial or share == 1:
      return share
    if kind == 'default':
      return 1.0
    raise errors.InputError(
      f'config.json has partial_rotary_factor={share} and rope_type={kind}, '
      'which do not go together in models of this type'
    )

  def write(self, ours: Keys) -> dict[str, Any]:
    names = {kind.name: name for name, kind in KINDS.items()}
    name = names[ours['rope.scaling.name']]
    theta, share = ours['rope.base'], ours['rope.share']
    both = {'rope_type': name, 'rope_theta': theta}
    for our, their in KINDS[name].written.items():
      value = ours[f'rope.scaling.{our}']
      if value or our not in OPTIONAL:
        both[their] = value
    found = {
      'rope_theta': theta,
      'rope_scaling': None if name == 'default' else both | {'type': name},
      'rope_parameters': both,
    }
    if self.partial or share != 1:
      found['partial_rotary_factor'] = share
      both['partial_rotary_factor'] = share
    return found
