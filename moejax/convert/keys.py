"""Between the keys of a config.json and those of ModelConfig.

Each `KeyMap` turns some of their keys into some of ours, and back:

  read(theirs)  {'hidden_size': 64}  ->  {'width': 64}
  write(ours)   {'width': 64, ...}   ->  {'hidden_size': 64}

Ours are flat, by their dotted path. A `KeyMap` reads a config in which every
key has its first name: `convert/configs.py` fills in the family's defaults,
which are those of its class in transformers. What a family cannot say is not
looked for here: whoever writes a config reads it again, and compares.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from moejax.core import errors, table

Keys = Mapping[str, Any]
# Stands for "null is refused".
NONE = object()


class KeyMap:
  """Some keys of a config."""

  @property
  def names(self) -> tuple[str, ...]:
    """The keys that it reads."""
    return ()

  @property
  def aliases(self) -> tuple[str, ...]:
    """Other names of the first of them."""
    return ()

  def read(self, theirs: Keys) -> dict[str, Any]:
    """Ours of theirs; raises InputError for what we do not have."""
    raise NotImplementedError

  def write(self, ours: Keys) -> dict[str, Any]:
    """Theirs of ours."""
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
  """One key that is the same in both but for its name.

  Attributes:
    theirs: its names, divided by '|'. All are read, and all are written.
    ours: its dotted path.
    also: further paths of ours that it sets.
    null: what null means, a value or a function of the config; without one it
      is refused.
    write_null: whether that value is written as null.
  """

  theirs: str
  ours: str
  also: tuple[str, ...] = ()
  null: Any = NONE
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
    if name in theirs and theirs[name] is None and self.null is not NONE:
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
  """A value of ours that every model of a family has, without a key there."""

  path: str
  value: Any

  def read(self, theirs: Keys) -> dict[str, Any]:
    del theirs
    return {self.path: self.value}


@dataclasses.dataclass(frozen=True)
class Only(KeyMap):
  """A key that must have one value: we have no other.

  Attributes:
    theirs: the key.
    value: the one that we have.
    null: whether null is as good, as it is where it is taken for false.
  """

  theirs: str
  value: Any
  null: bool = False

  @property
  def names(self) -> tuple[str, ...]:
    return (self.theirs,)

  def read(self, theirs: Keys) -> dict[str, Any]:
    found = theirs.get(self.theirs)
    if found != self.value and not (self.null and found is None):
      raise errors.InputError(
        f'config.json has {self.theirs}={_json(found)}, but moejax has it with '
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
  """A key that is true or false, for two values of one of ours.

  Attributes:
    theirs: the key.
    ours: its dotted path.
    on: our value for true.
    off: for false.
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
  """One of ours that follows from their keys and is not written.

  Attributes:
    path: ours.
    of: its value from their config.
  """

  path: str
  of: Callable[[Keys], Any]

  def read(self, theirs: Keys) -> dict[str, Any]:
    return {self.path: self.of(theirs)}


@dataclasses.dataclass(frozen=True)
class SharedWidth(KeyMap):
  """The width of all shared experts together.

  It is so many of the routed ones', if that is a whole number.

  Attributes:
    theirs: key of the width.
    expert: key of a routed expert's width.
  """

  theirs: str
  expert: str

  @property
  def names(self) -> tuple[str, ...]:
    return (self.theirs,)

  def read(self, theirs: Keys) -> dict[str, Any]:
    width, one = want(theirs, self.theirs), want(theirs, self.expert)
    if width < 1:
      raise errors.InputError(
        f'config.json has {self.theirs}={width}; it must be 1 or more'
      )
    if width % one:
      return {'moe.num_shared': 1, 'moe.shared.width': width}
    return {'moe.num_shared': width // one}

  def write(self, ours: Keys) -> dict[str, Any]:
    width = ours['moe.num_shared'] * ours['moe.expert_width']
    return {self.theirs: ours['moe.shared.width'] or width}


@dataclasses.dataclass(frozen=True)
class GroupsOfV2(KeyMap):
  """DeepSeek-V2's `topk_method`: among all experts, or those of some groups."""

  names = ('topk_method', 'n_group', 'topk_group')

  def read(self, theirs: Keys) -> dict[str, Any]:
    method = want(theirs, 'topk_method')
    routers = {'greedy': 'top_k', 'group_limited_greedy': 'group_limited'}
    router = table.lookup('topk_method of config.json', routers, method)
    found = {'moe.router.name': router}
    if router == 'group_limited':
      found['moe.router.num_groups'] = want(theirs, 'n_group')
      found['moe.router.kept_groups'] = want(theirs, 'topk_group')
      found['moe.router.group_score'] = 'max'
    return found

  def write(self, ours: Keys) -> dict[str, Any]:
    limited = ours['moe.router.name'] == 'group_limited'
    return {
      'topk_method': 'group_limited_greedy' if limited else 'greedy',
      'n_group': ours.get('moe.router.num_groups', 1),
      'topk_group': ours.get('moe.router.kept_groups', 1),
    }
