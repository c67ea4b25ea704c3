"""What a training run finds in its workdir before it begins or goes on."""

import re
from collections.abc import Callable

from etils import epath

from moejax import config as configs
from moejax.config import kept_tokenizer, plugins
from moejax.convert import companions
from moejax.core import compile_cache, config_tree, errors, files
from moejax.run import base_weights
from moejax.train import checkpoint_folder, run_checkpoints
from moejax.train.loggers import service

Say = Callable[[str], None]

ENDED = 'ended.json'  # how its process ended, by a sweep
# Files and folders that a run makes before or beside its checkpoints.
OWN = (
  kept_tokenizer.CONFIG,
  kept_tokenizer.CHECKPOINTS,
  kept_tokenizer.OWN,
  kept_tokenizer.CHAT,
  plugins.KEPT,
  companions.NAME,
  run_checkpoints.KEPT,
  base_weights.FOLDER,
  compile_cache.FOLDER,
  service.FOLDER,
  ENDED,
  'goodput.json',
  'metrics.jsonl',
  'versions.json',
)
# What a command's output, or a note of the user, is written to.
_OUTPUT = re.compile(r'.*\.(err|log|md|out|sh|txt)', re.IGNORECASE)


def write_missing_config(folder: epath.Path, say: Say) -> None:
  """Writes the config.json of a begun run from its newest whole checkpoint.

  Without it the run would be compared with nothing, and a run of another config
  would take the folder over.

  Args:
    folder: the workdir; it need not exist.
    say: is called with a line if the file was missing.
  """
  path = folder / kept_tokenizer.CONFIG
  if path.exists():
    return
  kept = checkpoint_folder.CheckpointFolder(
    folder / kept_tokenizer.CHECKPOINTS, say
  )
  for step in reversed(kept.steps()):
    if kept.damage(step):
      continue
    tree = kept.meta(step)['extra'].get('config')
    if tree is None:
      return  # imported weights have no config of a run
    plugins.load(plugins.of_workdir(tree, folder))
    run = configs.of_tree(tree)
    files.atomic_write_json(path, config_tree.to_dict(run))
    say(
      f'{path} was missing; it is written anew, as the checkpoint of step '
      f'{step} has it.'
    )
    return


def say_other_files(folder: epath.Path, say: Say) -> None:
  """Names a file that no run made, in a folder that no run has written to."""
  if other := _other_file(folder):
    say(
      f'{folder} holds files that no run made, such as {errors.shown(other)}: '
      'the files of this run are put beside them.'
    )


def _other_file(folder: epath.Path) -> str:
  """A file that no run made, in a folder that no run has written to; or ''."""
  try:
    names = sorted(path.name for path in folder.iterdir())
  except (FileNotFoundError, NotADirectoryError):
    return ''
  if any(name in OWN for name in names):
    return ''
  others = [
    name
    for name in names
    if not name.startswith('.') and not _OUTPUT.fullmatch(name)
  ]
  return others[0] if others else ''
