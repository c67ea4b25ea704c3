"""What another value of a config key means to a run that goes on.

A key says so where it is defined; what says nothing changes the result, so that
a run does not go on with another value of it.

  micro_batches: int = resume.key(resume.ROUNDING, config.number(1, at_least=1))
"""

import dataclasses
from typing import Any

from moejax.core import config_tree

# Other weights come of it: refused.
RESULT = 'result'
# The same weights but for the order in which sums are rounded: said.
ROUNDING = 'rounding'
# No weight depends on it: allowed.
NOTHING = 'nothing'
# Only the beginning of a run depends on it: said.
BEGINNING = 'beginning'
# It names a text, or a part of one: compared by the rows that come of it.
TEXT = 'text'
# How many steps there are: it may grow, and a schedule may depend on it.
LENGTH = 'length'

# By the dotted path of a key: its values before and now.
Changes = dict[str, tuple[Any, Any]]


def key(effect: str, default: Any) -> Any:
  """A field with what another value means to a run that goes on.

  Args:
    effect: one of the above; of a group of keys it is that of all of them.
    default: the field as it would be without, or its plain default.
  """
  metadata: dict[str, Any] = {'resume': effect}
  if isinstance(default, dataclasses.Field):
    metadata |= default.metadata
    default = default.default
  return dataclasses.field(default=default, metadata=metadata)


def effect_of(of: Any, path: str) -> str:
  """What another value of the key at a dotted path of a config means."""
  for name in path.split('.'):
    fields = {f.name: f for f in dataclasses.fields(of)}
    if name not in fields:  # the name of a choice
      return RESULT
    if 'resume' in fields[name].metadata:
      return fields[name].metadata['resume']
    of = getattr(of, name)
    if not dataclasses.is_dataclass(of):
      return RESULT
  return RESULT


def changes(old: Any, new: Any) -> dict[str, Changes]:
  """By effect, the keys on which two configs differ."""
  found: dict[str, Changes] = {
    effect: {}
    for effect in (RESULT, ROUNDING, NOTHING, BEGINNING, TEXT, LENGTH)
  }
  for path, values in config_tree.differences(old, new).items():
    there = new if path in config_tree.flatten(new) else old
    found[effect_of(there, path)][path] = values
  return found


def listed(changed: Changes, now: str = 'now', before: str = 'there') -> str:
  """The keys with both values, for a line.

  Example: 'opt.peak_lr (0.003 there, 0.5 now), seed (0 there, 1 now)'
  """
  return ', '.join(
    f'{key} ({a!r} {before}, {b!r} {now})' for key, (a, b) in changed.items()
  )
