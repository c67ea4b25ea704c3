"""The effect on a run that resumes if the value of a config key has changed.

A key states its effect where it is defined. A key that states none has the
effect RESULT, so that no run resumes with another value of it.

  micro_batches: int = resume.key(resume.ROUNDING, fields.number(1, at_least=1))

`moejax/run/compatibility.py` acts on the effects.
"""

import dataclasses
from typing import Any

from moejax.core import config_tree

# The trained weights depend on the key: another value is refused.
RESULT = 'result'
# The weights depend on the key only by rounding, of sums or of their terms:
# another value is reported.
ROUNDING = 'rounding'
# No weight depends on the key: another value is allowed.
NOTHING = 'nothing'
# Only the beginning of a run depends on the key: another value is reported.
BEGINNING = 'beginning'
# The key names a text or a part of a text: the rows of the text are compared.
TEXT = 'text'
# The key names a model that the run learns from: its weights are compared.
TEACHER = 'teacher'
# The key is the number of steps, which may grow. A schedule may depend on it.
LENGTH = 'length'
# As RESULT, but 'auto' stands for the value that was chosen when the run began,
# which the config of its workdir has.
CHOSEN, AUTO = 'chosen', 'auto'

# Values before and now, by the dotted path of the key.
Changes = dict[str, tuple[Any, Any]]


def key(effect: str, default: Any) -> Any:
  """A field that states the effect of another value on a run that resumes.

  Args:
    effect: one of the constants above. If the field is a group of keys, all
      keys of the group have this effect.
    default: the default, or a field, such as `fields.number(...)`, whose
      default and metadata are kept.
  """
  metadata: dict[str, Any] = {'resume': effect}
  if isinstance(default, dataclasses.Field):
    metadata |= default.metadata
    default = default.default
  return dataclasses.field(default=default, metadata=metadata)


def effect_of(config: Any, path: str) -> str:
  """The effect that the key at a dotted path of a config states."""
  node = config
  for name in path.split('.'):
    if isinstance(node, tuple):  # of `fields.keyed`: one of them by its name
      node = next((v for v in node if v.name == name), None)
      if node is None:
        return RESULT
      continue
    fields = {f.name: f for f in dataclasses.fields(node)}
    if name not in fields:  # the name of a choice
      return RESULT
    if 'resume' in fields[name].metadata:
      return fields[name].metadata['resume']
    node = getattr(node, name)
    keyed = 'keyed' in fields[name].metadata
    if not dataclasses.is_dataclass(node) and not keyed:
      return RESULT
  return RESULT


def changes(old: Any, new: Any) -> dict[str, Changes]:
  """The keys on which two configs differ, by effect; see `effect_of`."""
  by_effect: dict[str, Changes] = {
    effect: {}
    for effect in (RESULT, ROUNDING, NOTHING, BEGINNING, TEXT, TEACHER, LENGTH)
  }
  for path, values in config_tree.differences(old, new).items():
    config = new if path in config_tree.flatten(new) else old
    effect = effect_of(config, path)
    if effect == CHOSEN:
      if values[1] == AUTO:
        continue
      effect = RESULT
    by_effect[effect][path] = values
  return by_effect


def listed(changed: Changes, now: str = 'now', before: str = 'there') -> str:
  """The changed keys with both values, as text for a message.

  Args:
    changed: the keys.
    now: word behind the new value.
    before: word behind the old value.

  Example: 'opt.peak_lr (0.003 there, 0.5 now), seed (0 there, 1 now)'
  """
  return ', '.join(
    f'{key} ({a!r} {before}, {b!r} {now})' for key, (a, b) in changed.items()
  )
