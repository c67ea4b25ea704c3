"""Keys of rotary positions: `rope_theta`, `rope_scaling`, `rope_parameters`.

transformers 4 uses the first two, transformers 5 the last; all are read and
written. A key that is left out or null has the meaning that the classes of
transformers, and their `modeling_rope_utils`, give it.
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
class Scaling:
  """The keys of a config.json that describe its rotary scaling.

  Attributes:
    keys: entries of `rope_scaling` or `rope_parameters`.
    max_length: `max_position_embeddings`.
    original: `original_max_position_embeddings` outside of `rope_scaling`; None
      if it is not there.
    scores: see `Rotary.scores`.
  """

  keys: Keys
  max_length: int
  original: int | None
  scores: bool

  def number(self, name: str) -> float:
    """The value of a required key.

    Raises:
      InputError: the key is missing, or its value is no number.
    """
    value = self.keys.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
      problem = f'lacks rope_scaling.{name}'
      if name in self.keys:
        problem = f'has rope_scaling.{name}={value}'
      raise errors.InputError(f'config.json {problem}; give it a number')
    return float(value)

  def numbers(self, name: str) -> list[float]:
    """The value of a required key, a list of numbers.

    Raises:
      InputError: the value is not a list.
    """
    value = self.keys.get(name)
    if not isinstance(value, list):
      raise errors.InputError(
        f'config.json has rope_scaling.{name}={value}; it must be a list of '
        'numbers, one for each pair of features'
      )
    return [float(x) for x in value]

  @property
  def length(self) -> int:
    """Length of the texts that the model was trained on before the scaling."""
    if self.original is not None:
      return self.original
    if ORIGINAL in self.keys:
      return int(self.number(ORIGINAL))
    return self.max_length

  def factor(self, *, needed: bool) -> float:
    """The factor by which the length of texts grows.

    Null means the ratio of the two lengths, max_length / length.

    Args:
      needed: whether a missing key is an error; if not, it means the same as
        null.

    Raises:
      InputError: the key is missing and needed, or its value is no number.
    """
    if self.keys.get('factor') is None and (
      'factor' in self.keys or not needed
    ):
      return self.max_length / self.length
    return self.number('factor')


def _none(scaling: Scaling) -> Values:
  del scaling
  return {}


def _linear(scaling: Scaling) -> Values:
  return {'factor': scaling.number('factor')}


def _dynamic(scaling: Scaling) -> Values:
  return {'factor': scaling.number('factor'), 'length': scaling.max_length}


def _llama3(scaling: Scaling) -> Values:
  return {
    'factor': scaling.number('factor'),
    'low': scaling.number('low_freq_factor'),
    'high': scaling.number('high_freq_factor'),
    'length': scaling.length,
  }


def _yarn(scaling: Scaling) -> Values:
  keys = scaling.keys
  ours: dict[str, Any] = {
    'factor': scaling.factor(needed=True),
    'length': scaling.length,
    # A value of 0 means the default, as a missing key does.
    'beta_fast': float(keys.get('beta_fast') or 32),
    'beta_slow': float(keys.get('beta_slow') or 1),
    'mscale': float(keys.get('mscale') or 0),
    'mscale_all': float(keys.get('mscale_all_dim') or 0),
    'whole': bool(keys.get('truncate', True)),
  }
  amplitude = keys.get('attention_factor')
  if amplitude is None:
    amplitude = YarnScaling(**ours).amplitude
  if not scaling.scores:
    # In these classes mscale only enters the amplitude of cos and sin.
    ours |= {'mscale': 0.0, 'mscale_all': 0.0}
  implied = YarnScaling(**ours).amplitude
  if not math.isclose(float(amplitude), implied, rel_tol=1e-12):
    ours['attention_factor'] = float(amplitude)
  return ours


def _longrope(scaling: Scaling) -> Values:
  factor = scaling.factor(needed=False)
  amplitude = scaling.keys.get('attention_factor')
  if amplitude is None:
    longer = math.log(factor) / math.log(scaling.length) if factor > 1 else 0.0
    amplitude = math.sqrt(1 + longer)
  return {
    'short': scaling.numbers('short_factor'),
    'long': scaling.numbers('long_factor'),
    'length': scaling.length,
    'attention_factor': float(amplitude),
  }


@dataclasses.dataclass(frozen=True)
class RopeType:
  """How one `rope_type` is read and written.

  Attributes:
    name: name of our scaling (`model.rope.scaling`).
    read: the keys of our scaling, from theirs.
    written: names of their keys by those of ours.
  """

  name: str
  read: Callable[[Scaling], Values]
  written: dict[str, str]


ROPE_TYPES = {
  'default': RopeType('none', _none, {}),
  'linear': RopeType('linear', _linear, {'factor': 'factor'}),
  'dynamic': RopeType('dynamic', _dynamic, {'factor': 'factor'}),
  'llama3': RopeType(
    'llama3',
    _llama3,
    {
      'factor': 'factor',
      'low': 'low_freq_factor',
      'high': 'high_freq_factor',
      'length': ORIGINAL,
    },
  ),
  'yarn': RopeType(
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
  'longrope': RopeType(
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
# Keys of ours that are left out of a config.json if they are 0.
OPTIONAL = ('mscale', 'mscale_all', 'attention_factor')


@dataclasses.dataclass(frozen=True)
class Rotary(KeyMap):
  """The keys of rotary positions, as one family reads and writes them.

  Attributes:
    partial: whether the class rotates only the share `partial_rotary_factor` of
      a head's features. Other classes ignore that key with
      `rope_type=default`; with other types it is refused.
    scores: whether `mscale_all_dim` also multiplies the scores of attention, as
      with latent heads.
    null: the scaling of a config that has none.
    features: the key that gives the rotated share as a number of features; ''
      if there is none.
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
    keys = theirs['rope_scaling'] or theirs['rope_parameters']
    keys = self.null if keys is None else keys
    name = keys.get('rope_type', keys.get('type', 'default'))
    rope_type = table.lookup('rope_type of config.json', ROPE_TYPES, name)
    if keys.get('mscale_all_dim') and self.scores and name != 'yarn':
      raise errors.InputError(
        'config.json has rope_scaling.mscale_all_dim, which moejax has with '
        f'rope_type=yarn alone, not with {name}'
      )
    theta = keys.get('rope_theta', theirs['rope_theta'])
    if theta is None:
      raise errors.InputError('config.json has rope_theta=null; give a number')
    scaling = Scaling(
      keys, theirs['max_position_embeddings'], theirs[ORIGINAL], self.scores
    )
    return {
      'rope.base': float(theta),
      'rope.share': self._share(keys, theirs, name),
      'rope.scaling': {'name': rope_type.name, **rope_type.read(scaling)},
    }

  def _share(self, keys: Keys, theirs: Keys, rope_type: str) -> float:
    """Share of a head's features that are rotated.

    Args:
      keys: entries of `rope_scaling` or `rope_parameters`.
      theirs: all keys of config.json.
      rope_type: name of the type.
    """
    share = theirs['partial_rotary_factor']
    if self.features and theirs[self.features] is not None and share is None:
      share = theirs[self.features] / theirs['head_dim']
    share = keys.get('partial_rotary_factor', share)
    share = 1.0 if share is None else float(share)
    if self.partial or share == 1:
      return share
    if rope_type == 'default':
      return 1.0
    raise errors.InputError(
      f'config.json has partial_rotary_factor={share} and '
      f'rope_type={rope_type}, which do not go together in models of this type'
    )

  def write(self, ours: Keys) -> dict[str, Any]:
    names = {rope_type.name: name for name, rope_type in ROPE_TYPES.items()}
    name = names[ours['rope.scaling.name']]
    theta, share = ours['rope.base'], ours['rope.share']
    parameters = {'rope_type': name, 'rope_theta': theta}
    for our, their in ROPE_TYPES[name].written.items():
      value = ours[f'rope.scaling.{our}']
      if value or our not in OPTIONAL:
        parameters[their] = value
    theirs: dict[str, Any] = {
      'rope_theta': theta,
      'rope_scaling': None
      if name == 'default'
      else parameters | {'type': name},
      'rope_parameters': parameters,
    }
    if self.partial or share != 1:
      theirs['partial_rotary_factor'] = share
      parameters['partial_rotary_factor'] = share
    return theirs
