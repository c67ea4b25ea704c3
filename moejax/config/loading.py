"""Makes a `Run` from a config file and flags, or from a workdir."""

import dataclasses
import functools
import inspect
import json
import os
import pathlib
import re
import shlex
import types
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import ml_collections
from etils import epath

from moejax.config import kept_tokenizer, old_keys, plugins, user_files
from moejax.config.run import Run
from moejax.config.shrinking import shrink
from moejax.convert import folder as folders
from moejax.convert import tokenizer, whole
from moejax.core import config_tree, errors, home, shipped, table
from moejax.data.config import DataConfig

# Separators of the words behind a config file's path, and the word `tiny`.
SEPARATOR = re.compile('[:,]')
TINY = re.compile('(?:^|(?<=[:,]))tiny(?=$|[:,])')


def default() -> ml_collections.ConfigDict:
  """Every key with its default, for a config file to change."""
  return config_tree.to_config_dict(Run())


def from_checkpoint(folder: str) -> ml_collections.ConfigDict:
  """The tree of defaults with the model and tokenizer of a checkpoint.

  `start` is set to the folder, so that the run begins with its weights.

  Args:
    folder: a Hugging Face checkpoint, or the workdir of a run.

  Raises:
    InputError: no folder is named, or it is neither, or its model is not
      supported.
  """
  if not folder:
    raise errors.InputError(
      'no folder with weights is named: put it behind the colon of --config, '
      'as in hf/continue:FOLDER'
    )
  if (epath.Path(folder) / kept_tokenizer.CHECKPOINTS).is_dir():
    source = of_workdir(folder)
    images = dataclasses.replace(source.data.images, folder='', features='')
    data = DataConfig(vocab=source.data.vocab, images=images)
    start = os.fspath(epath.Path(folder).resolve())
    return config_tree.to_config_dict(
      Run(model=source.model, data=data, start=start, plugin=source.plugin)
    )
  plan = whole.plan(folders.open_folder(folder))
  vocab = tokenizer.vocab(plan.folder.path, plan.config.vocab_size)
  data = DataConfig(vocab=vocab, images=whole.images_of(plan, vocab))
  start = os.fspath(plan.folder.path.resolve())
  return config_tree.to_config_dict(
    Run(model=plan.config, data=data, start=start)
  )


def of_workdir(workdir: str) -> Run:
  """The config of the run in a workdir, with the workdir's copy of a tokenizer.

  Raises:
    InputError: the workdir has no config, or one that cannot be read; or the
      folder is one of Hugging Face.
  """
  path = epath.Path(workdir) / kept_tokenizer.CONFIG
  if not path.exists():
    raise errors.InputError(
      f'{workdir} is not the workdir of a run: {_missing_config(workdir)}'
    )
  tree = None
  try:
    tree = json.loads(path.read_text())
    if not isinstance(tree, dict):
      raise ValueError(f'{tree!r:.20} in place of config keys')
    plugin = plugins.of_workdir(tree, workdir)
    plugins.load(plugin)
    run = dataclasses.replace(of_tree(tree), plugin=plugin)
  except (ValueError, errors.InputError) as e:
    if isinstance(tree, dict) and 'model_type' in tree:
      folder = shlex.quote(workdir)
      raise errors.InputError(
        f'{workdir} is a Hugging Face folder, and no workdir; make one of it: '
        f'moejax convert import {folder} --workdir=NEW'
      ) from None
    raise errors.InputError(
      f'{path} cannot be read ({e}); use another --workdir'
    ) from None
  vocab = kept_tokenizer.resolved(run.data.vocab, workdir)
  return dataclasses.replace(
    run, data=dataclasses.replace(run.data, vocab=vocab)
  )


def _missing_config(workdir: str) -> str:
  """Why a folder has no config, and what to do."""
  folder = epath.Path(workdir)
  if not folder.exists():
    here = '' if os.path.isabs(workdir) else f' in {os.getcwd()}'
    return f'there is no such folder{here}'
  remedy = ''
  if kept_tokenizer.has_begun(folder):
    remedy = '; the command that trained it writes it anew from its checkpoints'
  if runs := _runs_in(folder):
    remedy = f'; its folders are, such as {workdir}/{runs[-1]}'
  return f'it has no {kept_tokenizer.CONFIG}{remedy}'


def _runs_in(folder: epath.Path) -> list[str]:
  """The folders of a folder that are workdirs, such as those of stages."""
  if not folder.is_dir():
    return []
  return sorted(
    path.name
    for path in folder.iterdir()
    if (path / kept_tokenizer.CONFIG).exists()
    and (path / kept_tokenizer.CHECKPOINTS).is_dir()
  )


def of_tree(tree: dict[str, Any]) -> Run:
  """The config in a tree from a `config.json`, which may have old names."""
  return config_tree.from_config_dict(Run, old_keys.migrated(tree))


def beside(file: str, name: str) -> ml_collections.ConfigDict:
  """The config of another file in the same folder, as a tree to be changed.

  Args:
    file: `__file__` of the config file that calls this.
    name: name of the other file, with its argument behind a colon.
  """
  folder = os.path.dirname(os.path.abspath(file))
  return config_tree.to_config_dict(load(os.path.join(folder, name)))


def vary(
  c: ml_collections.ConfigDict,
  variants: Mapping[str, Mapping[str, Any]],
  name: str,
) -> ml_collections.ConfigDict:
  """Sets the keys of one entry of a table of variants.

  Args:
    c: the config, which is changed in place.
    variants: by name of the variant, values by the dotted path of their key.
    name: name of the variant, which stands behind the colon of `--config`; ''
      is the first one.

  Returns:
    The same config.

  Raises:
    InputError: no variant has this name.
  """
  name = name or next(iter(variants))
  for key, value in table.lookup('variant', variants, name).items():
    *path, last = key.split('.')
    node = functools.reduce(lambda node, word: node[word], path, c)
    node[last] = value
  return c


def load(
  spec: str, overrides: Sequence[tuple[str, str]] = (), workdir: str = ''
) -> Run:
  """The run that a config file and flags describe.

  Args:
    spec: path of a config file, or the name of one that moejax ships, such as
      `tiny`; and behind a colon the argument of its `get_config`. There the
      word `tiny` shrinks the run that the file describes.
    overrides: dotted paths and texts of `--config.<path>=<text>`, in any order.
    workdir: folder of the run; its copy of the tokenizer is used if the
      original file is gone.

  Raises:
    InputError: the file does not exist or raises an error, a key is unknown, a
      value has a wrong type, or values do not fit together.
  """
  path, arg, tiny = _split_spec(spec)
  tree = _get_config(path, arg)
  old_keys.check(overrides)
  named = dict(overrides).get('plugin')
  if named is None:
    named = plugins.beside(shipped.find(path, 'config'), tree.get('plugin', ''))
  plugin = plugins.adopted(home.at_home(named), workdir)
  plugins.load(plugin)
  try:
    old_keys.check_tree(tree.to_dict())
    run = config_tree.from_config_dict(Run, tree)
  except errors.InputError as e:
    raise errors.InputError(f'{path}: {e}') from None
  if tiny:
    run = shrink(run)
  run = config_tree.override_all(run, overrides)
  keys = {key for key, _ in overrides}
  own = any(
    f'{key}.'.startswith((
      'data.files.',
      'data.sources.',
      'data.conversations.',
    ))
    for key in keys
  )
  if tiny and own and 'data.max_documents' not in keys:
    # `tiny` cuts the shipped text short, but not the user's own.
    run = config_tree.override(run, 'data.max_documents', '0')
  if plugin != run.plugin:
    run = dataclasses.replace(run, plugin=plugin)
  if workdir:
    vocab = kept_tokenizer.adopted(run.data.vocab, workdir)
    run = dataclasses.replace(
      run, data=dataclasses.replace(run.data, vocab=vocab)
    )
  run.check()
  # Not in `Run.check`, because a trained model can be used whatever its
  # schedule was.
  run.opt.schedule.check(run.train.steps)
  run.data.check_used()
  if not (workdir and kept_tokenizer.has_begun(epath.Path(workdir))):
    # A run that has begun may have been begun by an earlier version.
    run.opt.schedule.check_used()
    run.model.check_used()
    run.evals.check_used()
    run.data.check_held_out()
    _check_mixture(run, keys)
  return run


def _check_mixture(run: Run, keys: Collection[str]) -> None:
  """Raises InputError if a flag names a mixture that other texts replace."""
  own = 'files' if run.data.files else 'sources' if run.data.sources else ''
  if own and 'data.mixture' in keys:
    remedy = {
      'files': 'leave out data.files (data.files= is empty)',
      'sources': 'turn every source off (data.sources.NAME=off)',
    }[own]
    raise errors.InputError(
      f'data.mixture={run.data.mixture} has no effect, since data.{own} takes '
      f'its place: leave out data.mixture, or {remedy}'
    )


def default_workdir(spec: str) -> str:
  """runs/<name of the config file>-<words behind the colon>."""
  path, _, arg = spec.partition(':')
  words = [pathlib.PurePath(word).name for word in SEPARATOR.split(arg) if word]
  return os.path.join('runs', '-'.join([pathlib.Path(path).stem, *words]))


def _split_spec(spec: str) -> tuple[str, str, bool]:
  """The path, the argument of `get_config`, and whether to shrink the run.

  Example: `zoo.py:olmoe:tiny`, `zoo.py:tiny,olmoe` and `zoo.py:olmoe,tiny` are
  all split into 'zoo.py', 'olmoe' and True.
  """
  path, _, arg = spec.partition(':')
  # The rest of the argument stays as it is, since it may be a path.
  rest = TINY.sub('', arg)
  return path, rest.strip(':,'), rest != arg


def _get_config(path: str, arg: str) -> ml_collections.ConfigDict:
  """The tree that the `get_config` of a file returns."""
  file = shipped.find(path, 'config')
  module = user_files.load(file, 'config')
  get_config = getattr(module, 'get_config', None)
  if not callable(get_config):
    raise errors.InputError(f'{path} has no function get_config()')
  takes = len(inspect.signature(get_config).parameters)
  if arg and not takes:
    raise errors.InputError(
      f'{path} takes nothing behind the colon but "tiny", not {arg!r}'
    )
  try:
    made = user_files.call(file, get_config, *([arg] if takes else []))
  except errors.InputError as e:
    if hint := _of_stages(path, arg, module):
      raise errors.InputError(f'{e}{hint}') from e
    raise
  if not isinstance(made, ml_collections.ConfigDict):
    raise errors.InputError(
      f'{path}: get_config() must return a ConfigDict, not '
      f'{type(made).__name__}'
    )
  return made


def _of_stages(path: str, arg: str, module: types.ModuleType) -> str:
  """What to add to an error of a config whose last word should be a stage."""
  stages = getattr(module, 'STAGES', ())
  listed = stages if isinstance(stages, tuple | list) else ()
  names = [str(getattr(stage, 'name', stage)) for stage in listed]
  if not names or arg.rpartition(',')[2] in names:
    return ''
  word = arg or 'WORDS'
  return (
    f'. This config has stages: moejax stages --config={path}:{word} trains '
    f'all of them, and --config={path}:{word},{names[0]} is the first'
  )
