"""A finished or stopped run, opened again from its workdir."""

import argparse
import dataclasses
from collections.abc import Callable

import jax
from etils import epath

from moejax.cli import kept, run_config
from moejax.cli.run_config import Run
from moejax.core import config, errors
from moejax.model import build
from moejax.parallel import alone
from moejax.parallel import group as groups
from moejax.parallel import mesh as meshes
from moejax.train import checkpoint, optimizer
from moejax.train import state as states

CONFIG, CHECKPOINTS = kept.CONFIG, kept.CHECKPOINTS
run_of = run_config.of_workdir

# Keys that do not change what is trained: a run may go on with others.
FREE_KEYS = (
  'data.cache_dir',
  'data.vocab.path',  # compared by what is in the file: cli/kept.py
  'start',
  'train.checkpoint_every',
  'train.compile_cache',
  'train.eval_batches',
  'train.eval_every',
  'train.keep_checkpoints',
  'train.load_every',
  'train.local_checkpoint_every',
  'train.local_checkpoints',
  'train.log_every',
  'train.max_bad_steps',
  'train.peak_tflops',
  'train.watchdog_exits',
  'train.watchdog_s',
)
# How many devices and processes there are is nothing to the result, but for
# the order in which sums are rounded.
FREE_PART = 'mesh.'


def check_same(run: Run, old: Run, where: str) -> None:
  """Raises InputError if two runs train something else; it names the keys."""
  different = config.differences(old, run)
  keys = ', '.join(
    f'{key} ({a!r} there, {b!r} now)'
    for key, (a, b) in different.items()
    if key not in FREE_KEYS and not key.startswith(FREE_PART)
  )
  if keys:
    raise errors.InputError(
      f'{where} belongs to a run of another config: {keys}; use another '
      '--workdir, or the config that is there'
    )


def state(
  workdir: str, warn: Callable[[str], None] = lambda _: None
) -> states.State:
  """The whole training state of the newest good checkpoint, on one device.

  Args:
    workdir: of the run.
    warn: is given a line for each checkpoint that had to be skipped.

  Raises:
    InputError: there is no good checkpoint.
  """
  run = run_of(workdir)
  run = dataclasses.replace(run, mesh=meshes.MeshConfig())
  model = build.build(run.model, meshes.make(run.mesh, jax.devices()[:1]))
  transform = optimizer.make(run.opt, run.train.steps, model.decays)
  folder = epath.Path(workdir) / CHECKPOINTS
  with checkpoint.Checkpointer(folder, warn=warn) as checkpoints:
    found = checkpoints.restore_latest(
      states.abstract(model, transform, run.train.skip_spikes)
    )
  if found is None:
    raise errors.InputError(f'{folder} has no checkpoint yet')
  return found[0]


def weights(
  model: build.Model,
  workdir: str,
  warn: Callable[[str], None],
  group: groups.AnyGroup = alone.ALONE,
  *,
  step: str = checkpoint.NEWEST,
  key: str = '--step',
) -> tuple[build.Weights, int]:
  """The weights of one of a workdir's checkpoints, and its step.

  Args:
    model: theirs.
    workdir: of the run.
    warn: is given a line for each checkpoint that had to be skipped.
    group: the processes that read.
    step: which one, see `Checkpointer.find`.
    key: where the user says which, for errors.

  Raises:
    InputError: there is none, or it is of another model.
  """
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    model.shapes,
    model.shardings,
  )
  place = epath.Path(workdir) / CHECKPOINTS
  with checkpoint.Checkpointer(place, group=group, warn=warn) as checkpoints:
    found, _ = checkpoints.find(step, key)
    # Of all that a state has, only the weights are read.
    state, _ = checkpoints.restore(found, {'weights': abstract}, partial=True)
  return state['weights'], found


def add_step_flag(flags: argparse.ArgumentParser) -> None:
  """Adds `--step`: which checkpoint of a workdir is meant."""
  flags.add_argument(
    '--step',
    default=checkpoint.NEWEST,
    help='of the checkpoint: newest (that is whole), best (of the lowest '
    'validation loss), or a number (default: %(default)s)',
  )
