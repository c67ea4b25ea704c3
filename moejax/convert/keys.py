"""Maps between the keys of a config.json and those of ModelConfig.

Each `KeyMap` converts some of their keys to some of ours, and back:

  read(theirs)  {'hidden_size': 64}  ->  {'width': 64}
  write(ours)   {'width': 64, ...}   ->  {'hidden_size': 64}

Our keys are dotted paths, as in {'moe.router.k': 2}. `read` is given a config
in which `configs.filled` has replaced aliases by first names and filled in the
family's defaults. `write` does not check that a family can express our values:
`configs.write` reads the result back and compares.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from moejax.core import errors, table

Keys = Mapping[str, Any]
# Value of `Key.null` for keys that must not be null.
REFUSED = object()


class KeyMap:
  """A map between some keys of a config.json and some of a ModelConfig."""

  @property
  def names(self) -> tuple[str, ...]:
    """Their keys that it reads."""
    return ()

  @property
  def aliases(self) -> tuple[str, ...]:
    """Other names of the first key in `names`."""
    return ()

  def read(self, theirs: Keys) -> dict[str, Any]:
    """Our keys, computed from theirs.

    Raises:
      InputError: a value that moejax does not support.
    """
    raise NotImplementedError

  def write(self, ours: Keys) -> dict[str, Any]:
    """Their keys, computed from ours; none by default."""
    del ours
    return {}


def want(theirs: Keys, name: str) -> Any:
  """The value of a key.

  Raises:
    InputError: the key is null, or is missing and has no default.
  """
  value = theirs.get(name)
  if value is None:
    has = f'has {name}=null' if name in theirs else f'lacks {name}'
    raise errors.InputError(f'config.json {has}; give it a value')
  return value


@dataclasses.dataclass(frozen=True)
class Key(KeyMap):
  """A key of theirs and a key of ours with the same value.

  Attributes:
    theirs: its names, divided by '|'. All are read, and all are written.
    ours: dotted path of our key.
    also: further keys of ours that are set to the same value.
    null: our value for null: a value, or a function of the config. REFUSED
      makes null an error.
    write_null: whether our value `null` is written as null.
  """

  theirs: str
  ours: str
  also: tuple[str, ...] = ()
  null: Any = REFUSED
  write_null: bool = False

  @property
  def names(self) -> tuple[str, ...]:
    return (self.theirs.split('|')[0],)

  @property
  def aliases(self) -> tuple[str, ...]:
    """All names but the first."""
    return tuple(self.theirs.split('|')[1:])

  def read(self, theirs: Keys) -> dict[str, Any]:
    name = self.names[0]
    if name in theirs and theirs[name] is None and self.null is not REFUSED:
      value = self.null
      value = value(theirs) if callable(value) else value
    else:
      value = want(theirs, name)
    return dict.fromkeys((self.ours, *self.also), value)

  def write(self, ours: Keys) -> dict[str, Any]:
    value = ours.get(self.ours)
    if self.write_null and value == self.null:
      value = None
    return dict.fromkeys((*self.names, *self.aliases), value)


@dataclasses.dataclass(frozen=True)
class Ours(KeyMap):
  """A key of ours with one value for all models of a family, none of theirs.

  Attributes:
    path: dotted path of our key.
    value: its value.
  """

  path: str
  value: Any

  def read(self, theirs: Keys) -> dict[str, Any]:
    del theirs
    return {self.path: self.value}


@dataclasses.dataclass(frozen=True)
class Only(KeyMap):
  """A key of theirs of which moejax supports one value only.

  Attributes:
    theirs: the key.
    value: the supported value.
    null: whether null is accepted too, because their class takes it for false.
  """

  theirs: str
  value: Any
  null: bool = False

  @property
  def names(self) -> tuple[str, ...]:
    return (self.theirs,)

  def read(self, theirs: Keys) -> dict[str, Any]:
    value = theirs.get(self.theirs)
    if value != self.value and not (self.null and value is None):
      raise errors.InputError(
        f'config.json has {self.theirs}={_json(value)}, but moejax has it with '
        f'{_json(self.value)} alone'
      )
    return {}

  def write(self, ours: Keys) -> dict[str, Any]:
    del ours
    return {self.theirs: self.value}


def _json(value: Any) -> str:
  return json.dumps(value)


@dataclasses.dataclass(frozen=True)
class KeySwitch(KeyMap):
  """A boolean key of theirs that selects one of two values of a key of ours.

  Attributes:
    theirs: the key.
    ours: dotted path of our key.
    on: our value for true.
    off: our value for false.
  """

  theirs: str
  ours: str
  on: Any
  off: Any

  @property
  def names(self) -> tuple[str, ...]:
    return (self.theirs,)

  def read(self, theirs: Keys) -> dict[str, Any]:
    value = want(theirs, self.theirs)
    if not isinstance(value, bool):
      raise errors.InputError(
        f'config.json has {self.theirs}={_json(value)}; it must be true or '
        'false'
      )
    return {self.ours: self.on if value else self.off}

  def write(self, ours: Keys) -> dict[str, Any]:
    return {self.theirs: ours[self.ours] == self.on}


@dataclasses.dataclass(frozen=True)
class Derived(KeyMap):
  """A key of ours that is computed from keys of theirs; nothing is written.

  Attributes:
    path: dotted path of our key.
    compute: its value, from their config.
  """

  path: str
  compute: Callable[[Keys], Any]

  def read(self, theirs: Keys) -> dict[str, Any]:
    return {self.path: self.compute(theirs)}


@dataclasses.dataclass(frozen=True)
class SharedWidth(KeyMap):
  """A key of theirs for the width of all shared experts together.

  If it is a multiple of a routed expert's width, ours is that number of shared
  experts; otherwise ours is one shared expert of that width.

  Attributes:
    theirs: key of the width of all shared experts.
    expert: key of a routed expert's width.
  """

  theirs: str
  expert: str

  @property
  def names(self) -> tuple[str, ...]:
    return (self.theirs,)

  def read(self, theirs: Keys) -> dict[str, Any]:
    width, routed = want(theirs, self.theirs), want(theirs, self.expert)
    if width < 1:
      raise errors.InputError(
        f'config.json has {self.theirs}={width}; it must be 1 or more'
      )
    if width % routed:
      return {'moe.num_shared': 1, 'moe.shared.width': width}
    return {'moe.num_shared': width // routed}

  def write(self, ours: Keys) -> dict[str, Any]:
    width = ours['moe.num_shared'] * ours['moe.expert_width']
    return {self.theirs: ours['moe.shared.width'] or width}


@dataclasses.dataclass(frozen=True)
class GroupsOfV2(KeyMap):
  """DeepSeek-V2's `topk_method` and the keys of its groups.

  'greedy' chooses among all experts, 'group_limited_greedy' among those of the
  best groups.
  """

  names = ('topk_method', 'n_group', 'topk_group')

  def read(self, theirs: Keys) -> dict[str, Any]:
    method = want(theirs, 'topk_method')
    routers = {'greedy': 'top_k', 'group_limited_greedy': 'group_limited'}
    router = table.lookup('topk_method of config.json', routers, method)
    ours = {'moe.router.name': router}
    if router == 'group_limited':
      ours['moe.router.num_groups'] = want(theirs, 'n_group')
      ours['moe.router.kept_groups'] = want(theirs, 'topk_group')
      ours['moe.router.group_score'] = 'max'
    return ours

  def write(self, ours: Keys) -> dict[str, Any]:
    limited = ours['moe.router.name'] == 'group_limited'
    return {
      'topk_method': 'group_limited_greedy' if limited else 'greedy',
      'n_group': ours.get('moe.router.num_groups', 1),
      'topk_group': ours.get('moe.router.kept_groups', 1),
    }
