"""Former names of config keys and of their values.

A config file or a flag with a former name is refused, with the present name.
The `config.json` of a workdir is read with its names replaced, so an old run
goes on.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from moejax.core import errors

# Dotted path of a key -> its path now.
KEYS = {
  'model.moe.exchange': 'model.moe.expert_parallel',
  'model.qk_norm_turned': 'model.qk_norm_after_rope',
}
# By the path of a key now, value -> value now. Of a part chosen from a table
# that is its name.
VALUES = {
  'model.moe.expert_parallel': {
    'ring': 'all_gather',
    'gathered': 'gather_experts',
  },
  'model.moe.grouped_matmul': {'obvious': 'reference'},
}


# Modules that config and sweep files import -> where they are now.
MODULES = {'run_config': 'moejax.config', 'sweep_config': 'moejax.sweep'}


def check(flags: Iterable[tuple[str, str]]) -> None:
  """Raises InputError if a flag has a name of before; it says the new one.

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
  """The same for the tree that a config file returns.

  Its keys are known already, as the tree was locked.
  """
  for key in VALUES:
    *path, last = key.split('.')
    value = (_at(tree, path) or {}).get(last)
    if isinstance(value, Mapping):
      value = value.get('name')
    if isinstance(value, str):
      check([(key, value)])


def hint(message: str) -> str:
  """What to add to an error of a config file; '' if no old name is in it.

  Args:
    message: of a key that a locked ConfigDict lacks, whose last part it has in
      quotes; or of an import that fails.
  """
  for old, new in KEYS.items():
    last = old.rpartition('.')[2]
    if f'"{last}"' in message or f"'{last}'" in message:
      return f'; {old} is called {new} now'
  for old, new in MODULES.items():
    if f"cannot import name '{old}'" in message:
      return f'; it is {new} now'
  return ''


def migrated(tree: dict[str, Any]) -> dict[str, Any]:
  """The tree of a `config.json`, with the names of now; it is changed."""
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
  """The node at a path, or None."""
  for part in path:
    tree = tree.get(part) if isinstance(tree, Mapping) else None
  return tree if isinstance(tree, Mapping) else None
