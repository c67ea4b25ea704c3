"""Former names of config keys and of their values.

A config file or a flag with a former name is refused, with the present name.
The `config.json` of a workdir is read with its names replaced, so an old run
goes on.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from moejax.core import errors

# Former dotted path of a key -> present path.
KEYS = {
  'model.moe.exchange': 'model.moe.expert_parallel',
  'model.qk_norm_turned': 'model.qk_norm_after_rope',
}
# Present path of a key -> {former value: present value}. For a part that is
# chosen from a table, the value is its name.
VALUES = {
  'model.moe.expert_parallel': {
    'ring': 'all_gather',
    'gathered': 'gather_experts',
  },
  'model.moe.grouped_matmul': {'obvious': 'reference'},
}
# Former module of `moejax.cli` that config files imported -> present module.
MODULES = {'run_config': 'moejax.config', 'sweep_config': 'moejax.sweep'}


def check(flags: Iterable[tuple[str, str]]) -> None:
  """Raises InputError, with the present name, if a flag has a former name.

  Args:
    flags: dotted paths and texts, as in `--config.<path>=<text>`.
  """
  for path, text in flags:
    for old, new in KEYS.items():
      if f'{path}.'.startswith(f'{old}.'):
        raise errors.InputError(
          f'config key {path!r} is called {new + path[len(old) :]!r} now'
        )
    key = path.removesuffix('.name')
    if text in VALUES.get(key, {}):
      raise errors.InputError(
        f'{key}={text} is called {VALUES[key][text]!r} now'
      )


def check_tree(tree: Mapping[str, Any]) -> None:
  """Raises InputError if the tree of a config file has a former name.

  A file can set a key that does not exist, so former keys may be in the tree.
  """
  for key in KEYS:
    *path, last = key.split('.')
    if last in (_at(tree, path) or {}):
      check([(key, '')])
  for key in VALUES:
    *path, last = key.split('.')
    value = (_at(tree, path) or {}).get(last)
    if isinstance(value, Mapping):
      value = value.get('name')
    if isinstance(value, str):
      check([(key, value)])


def hint(message: str) -> str:
  """The present name, to add to an error of a config file.

  Args:
    message: message of the error. For a key that a ConfigDict lacks, the
      last word of its path stands in quotes; for an import that fails, the name
      of the module does.

  Returns:
    The words to add; '' if the message has no former name.
  """
  for old, new in KEYS.items():
    last = old.rpartition('.')[2]
    if f'"{last}"' in message or f"'{last}'" in message:
      return f'; {old} is called {new} now'
  for old, new in MODULES.items():
    if f"import name '{old}'" in message or f"moejax.cli.{old}'" in message:
      return f'; it is {new} now'
  return ''


def migrated(tree: dict[str, Any]) -> dict[str, Any]:
  """Gives the tree of a `config.json` present names; it is changed in place."""
  for old, new in KEYS.items():
    (*path, last), (*_, name) = old.split('.'), new.split('.')
    node = _at(tree, path)
    if node is not None and last in node:
      node[name] = node.pop(last)
  for key, values in VALUES.items():
    *path, last = key.split('.')
    node = _at(tree, path) or {}
    value = node.get(last)
    if isinstance(value, dict):
      name = value.get('name', '')
      value['name'] = values.get(name, name)
    elif isinstance(value, str):
      node[last] = values.get(value, value)
  return tree


def _at(tree: Any, path: Iterable[str]) -> Any:
  """The subtree at a path; None if the tree has none there."""
  for word in path:
    tree = tree.get(word) if isinstance(tree, Mapping) else None
  return tree if isinstance(tree, Mapping) else None
