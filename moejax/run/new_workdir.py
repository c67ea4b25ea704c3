"""Makes a workdir for weights that were imported or upcycled, not trained."""

import dataclasses
from collections.abc import Callable
from typing import Any

from etils import epath

from moejax.config import Run, plugins
from moejax.core import config_tree, errors, files
from moejax.run import restore
from moejax.train import checkpoint, lora


def make(path: str) -> epath.Path:
  """The folder for a new workdir, made if it does not exist.

  Raises:
    InputError: the folder is the workdir of a run, or cannot be written.
  """
  workdir = epath.Path(path)
  if (workdir / restore.CONFIG).exists():
    raise errors.InputError(
      f'{workdir} is the workdir of a run already; take another'
    )
  files.check_writable(workdir)
  return workdir


def save(
  workdir: epath.Path,
  weights: Any,
  extra: dict[str, Any],
  note: Callable[[str], None],
) -> None:
  """Saves weights as the checkpoint of step 0.

  Args:
    workdir: the new workdir.
    weights: the tree of weights.
    extra: the checkpoint's record of where its weights come from.
    note: is called with warnings.
  """
  place = workdir / restore.CHECKPOINTS
  with checkpoint.Checkpointer(place, warn=note) as checkpoints:
    checkpoints.save(0, {'weights': weights}, extra)


def finish(workdir: epath.Path, run: Run) -> None:
  """Writes the config, last of all: it marks a folder as a workdir.

  Its weights are whole, whether or not they were trained by adapters.
  """
  train = dataclasses.replace(run.train, lora=lora.Lora())
  run = dataclasses.replace(run, train=train)
  plugins.keep(run.plugin, workdir)
  files.atomic_write_json(workdir / restore.CONFIG, config_tree.to_dict(run))
