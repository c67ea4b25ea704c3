"""Plugins: routers, and other parts of a layer, in a file of the user's own.

  moejax train --config=tiny --config.plugin=my.py \
    --config.model.moe.router=fair

A plugin is Python with a table like those of moejax, whose entries become
choices beside moejax's own:

  ROUTERS = {'fair': Fair}

TABLES has the tables that it may have. A plugin imports moejax and installed
packages, and no other file of the user: the workdir of a run keeps a copy of
the one file, WORKDIR/plugin/my.py, so that its model can be used when the
original is gone or has changed.
"""

import ast
import functools
import hashlib
import importlib.metadata
import json
import os
import re
import sys
import types
from collections.abc import Mapping
from typing import Any

from etils import epath

from moejax.config import kept_tokenizer, user_files
from moejax.core import errors, files, table
from moejax.moe import contract
from moejax.moe.balance import BALANCE
from moejax.moe.dispatchers import DISPATCHERS
from moejax.moe.experts import EXPERTS
from moejax.moe.routers import ROUTERS
from moejax.moe.scorers import SCORERS

KEPT = 'plugin'  # folder of the workdir
TABLES: dict[str, dict[str, Any]] = {
  'ROUTERS': ROUTERS,
  'SCORERS': SCORERS,
  'BALANCE': BALANCE,
  'DISPATCHERS': DISPATCHERS,
  'EXPERTS': EXPERTS,
}


def load(path: str) -> None:
  """Adds the entries of a plugin to the tables of moejax.

  A plugin of the same text is imported once in a process, wherever it lies. An
  entry of another plugin with the same name is replaced.

  Args:
    path: of the file; '' for no plugin.

  Raises:
    InputError: the file does not exist, is not Python, imports another file of
      the user, raises an error, or has no entries, or one that does not fit.
  """
  if not path:
    return
  if not path.endswith('.py'):
    raise errors.InputError(
      f'plugin={path!r} is not the path of a Python file, which ends in .py'
    )
  file = epath.Path(path)
  local = files.is_local(file)
  text = user_files.read(path, 'plugin') if local else file.read_bytes()
  # A dataclass looks up its module by name, and two texts are two modules.
  name = f'moejax_plugin_{hashlib.sha256(text).hexdigest()[:16]}'
  module = sys.modules.get(name)
  if module is None:
    loader = user_files.Loader(text, path)
    module = sys.modules[name] = loader.module(name)
    try:
      _check_imports(path, text)
      user_files.call(path, loader.exec_module, module)
      _check(path, module)
      for of in TABLES:
        for cls in getattr(module, of, {}).values():
          _placed(path, cls)
    except BaseException:
      del sys.modules[name]
      raise
  for of, known in TABLES.items():
    for entry, cls in getattr(module, of, {}).items():
      table.add(known, entry, cls)


def beside(config: str, path: str) -> str:
  """The plugin that a config file names: beside the file, or else as it stands.

  Args:
    config: path of the config file.
    path: of the plugin, in the config.
  """
  near = os.path.join(os.path.dirname(config), path)
  return near if path and os.path.isfile(near) else path


def of_workdir(tree: Mapping[str, Any], workdir: epath.PathLike) -> str:
  """The plugin of a run: the copy in its workdir.

  Args:
    tree: a config, as nested dictionaries.
    workdir: folder of the run.

  Returns:
    A path; '' if the run has none.
  """
  path = tree.get('plugin', '')
  return os.fspath(_copy(path, workdir)) if path else ''


def adopted(path: str, workdir: epath.PathLike) -> str:
  """The plugin that a run goes on with.

  Args:
    path: of the plugin; '' for none.
    workdir: folder of the run; '' for none.

  Returns:
    The path, or that of the copy in the workdir if the original is gone.

  Raises:
    InputError: the run has a checkpoint, and began with another text.
  """
  if not (path and workdir and kept_tokenizer.has_begun(epath.Path(workdir))):
    return path
  copy = _copy(_began_with(workdir) or path, workdir)
  if not copy.exists():
    return path
  original = epath.Path(path)
  if not original.exists():
    return os.fspath(copy) if copy.name == original.name else path
  if original.read_bytes() != copy.read_bytes():
    raise errors.InputError(
      f'plugin={path!r} is not what the run in {workdir} began with; use '
      f'another --workdir, or --config.plugin={copy} to go on with the copy'
    )
  return path


def keep(path: str, workdir: epath.PathLike) -> None:
  """Copies a plugin into a workdir; '' stands for no plugin."""
  copy = _copy(path, workdir)
  if not path or copy == epath.Path(path):
    return
  copy.parent.mkdir(parents=True, exist_ok=True)
  copy.write_bytes(epath.Path(path).read_bytes())


def _copy(path: str, workdir: epath.PathLike) -> epath.Path:
  return epath.Path(workdir) / KEPT / os.path.basename(path)


def _began_with(workdir: epath.PathLike) -> str:
  """The path of the plugin in the config of a workdir; '' if it has none."""
  config = epath.Path(workdir) / kept_tokenizer.CONFIG
  try:
    return str(json.loads(config.read_text()).get('plugin', ''))
  except (FileNotFoundError, ValueError):
    return ''  # what reads the config says what is wrong with it


def _check_imports(path: str, text: bytes) -> None:
  """Raises InputError if a plugin imports another file of the user."""
  try:
    nodes = [*ast.walk(ast.parse(text))]
  except (SyntaxError, ValueError):
    return  # running it says where
  for node in nodes:
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = ['.' * node.level + (node.module or '')]
    else:
      continue
    for name in names:
      if name.startswith('.') or _is_own(name.partition('.')[0], path):
        raise errors.InputError(
          f'{path}:{node.lineno}: it imports {name}, a file of yours, and the '
          'workdir of a run keeps a copy of the plugin alone; write both into '
          'one file, or install the other with pip'
        )


def _is_own(name: str, path: str) -> bool:
  """Whether a module is beside the plugin, or here, and not installed."""
  places = {os.path.join(f, name) for f in (os.path.dirname(path), '')}
  inits = [os.path.join(place, '__init__.py') for place in places]
  if not any(map(os.path.isfile, [*inits, *(f'{p}.py' for p in places)])):
    return False
  installed = importlib.metadata.packages_distributions()
  known = name == 'moejax' or name in sys.stdlib_module_names
  return not known and name not in installed


def _check(path: str, module: types.ModuleType) -> None:
  """Raises InputError unless all entries of a plugin can be chosen."""
  tables = {of: getattr(module, of) for of in TABLES if hasattr(module, of)}
  if not tables:
    example = "such as ROUTERS = {'mine': Mine}"
    raise errors.InputError(
      f'{path} has none of the tables {", ".join(TABLES)}; add one, {example}'
    )
  for of, entries in tables.items():
    if not isinstance(entries, dict):
      raise errors.InputError(
        f'{path}: {of} must be a dictionary from names to classes, not '
        f'{type(entries).__name__}'
      )
    for name, cls in entries.items():
      _check_entry(f'{path}: {of}[{name!r}]', of, name, cls, module)


def _check_entry(
  place: str, of: str, name: Any, cls: Any, module: types.ModuleType
) -> None:
  if not isinstance(name, str) or not re.fullmatch(r'[a-z][a-z0-9_]*', name):
    raise errors.InputError(
      f'{place}: a name has small letters, digits and _ alone, as in fair_2'
    )
  if name in TABLES[of] and not table.is_added(TABLES[of][name]):
    raise errors.InputError(
      f'{place}: moejax has {name!r} itself; take another name'
    )
  if not isinstance(cls, type):
    raise errors.InputError(f'{place} must be a class, not {cls!r}')
  if of == 'ROUTERS' and not issubclass(cls, contract.Router):
    raise errors.InputError(
      f'{place}: {cls.__name__} must inherit from moejax.Router'
    )
  if cls.__module__ != module.__name__:
    raise errors.InputError(
      f'{place}: {cls.__name__} must be defined in this file, of which the '
      'workdir keeps a copy; inherit from it here'
    )
  if '__dataclass_fields__' not in vars(cls) or not _is_frozen(cls):
    raise errors.InputError(
      f'{place}: write @dataclasses.dataclass(frozen=True) above class '
      f'{cls.__name__}'
    )


def _is_frozen(cls: Any) -> bool:
  return bool(cls.__dataclass_params__.frozen)


def _placed(path: str, cls: type) -> None:
  """Lets errors of a class's own `__call__` name their place in the plugin."""
  function = vars(cls).get('__call__')
  if function is None:
    return

  @functools.wraps(function)
  def call(*args: Any, **kwargs: Any) -> Any:
    return user_files.call(path, functools.partial(function, *args, **kwargs))

  cls.__call__ = call  # type: ignore[method-assign]  # of any class
