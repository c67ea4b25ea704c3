"""Reads the config, the state or the weights of a run from its workdir."""

import argparse
import dataclasses
from collections.abc import Callable

import jax
from etils import epath

from moejax import config
from moejax.config import Run, kept_tokenizer
from moejax.core import errors, resume
from moejax.model import build
from moejax.parallel import mesh as meshes
from moejax.parallel.group import SINGLE, Group
from moejax.run import base_weights
from moejax.train import checkpoint, lora, optimizer, run_checkpoints
from moejax.train import state as states

CONFIG, CHECKPOINTS = kept_tokenizer.CONFIG, kept_tokenizer.CHECKPOINTS
run_of = config.of_workdir


def different(run: Run, old: Run) -> resume.Changes:
  """The keys by which the results of two runs differ."""
  changes = resume.changes(old, run)
  differing = dict(changes[resume.RESULT])
  if _drops(run) or _drops(old):
    # Which assignments are dropped changes the result by more than rounding.
    for key, values in changes[resume.ROUNDING].items():
      if key.startswith('model.moe.expert_parallel.'):
        differing[key] = values
  return differing


def check_same(run: Run, old: Run, where: str) -> None:
  """Raises InputError, with the keys, if the results of two runs differ."""
  if differing := different(run, old):
    raise another_run(differing, where)


def another_run(differing: resume.Changes, where: str) -> errors.InputError:
  """The error for a workdir or checkpoint that belongs to another run.

  Args:
    differing: the keys that differ.
    where: the workdir or checkpoint, as the subject of the message.
  """
  return errors.InputError(
    f'{where} belongs to a run of another config: {resume.listed(differing)}; '
    'use another --workdir, or the config that is there'
  )


def _drops(run: Run) -> bool:
  """Whether expert parallelism drops assignments over its capacity."""
  return getattr(run.model.moe.expert_parallel, 'overflow', None) == 'drop'


def state(
  workdir: str, warn: Callable[[str], None] = lambda _: None
) -> states.State:
  """The training state of the newest whole checkpoint, on one device.

  Args:
    workdir: folder of the run.
    warn: is called with a line for each checkpoint that had to be skipped.

  Raises:
    InputError: the run has no checkpoint that is whole.
  """
  run = run_of(workdir)
  run = dataclasses.replace(run, mesh=meshes.MeshConfig())
  model = build.build(run.model, meshes.make(run.mesh, jax.devices()[:1]))
  model = lora.learner(model, run.train.lora)
  transform = optimizer.make(run.opt, run.train.steps, model.decays)
  folder = epath.Path(workdir) / CHECKPOINTS
  with checkpoint.Checkpointer(folder, warn=warn) as checkpointer:
    latest = checkpointer.restore_latest(
      states.abstract(
        model, transform, run.train.skip_spikes, run.train.sparsity
      )
    )
  if latest is None:
    raise errors.InputError(f'{folder} has no checkpoint yet')
  return latest[0]


def checkpoints(
  workdir: str,
  warn: Callable[[str], None] = lambda _: None,
  group: Group = SINGLE,
) -> run_checkpoints.RunCheckpoints:
  """All checkpoints of a workdir, as a context manager; reads nothing yet.

  Example:
    with restore.checkpoints('runs/tiny') as saved:
      saved.steps()  # {0: ('kept',), 500: ('newest', 'best')}
      saved.choose('all')  # [0, 500]

  Args:
    workdir: folder of the run.
    warn: is called with a line for each checkpoint that had to be skipped.
    group: the processes that read.
  """
  folder = epath.Path(workdir)
  return run_checkpoints.RunCheckpoints(
    folder / CHECKPOINTS,
    folder / run_checkpoints.KEPT,
    group=group,
    warn=warn,
  )


def weights(
  model: build.Model,
  workdir: str,
  warn: Callable[[str], None],
  group: Group = SINGLE,
  *,
  step: str = checkpoint.NEWEST,
  key: str = '--step',
) -> tuple[build.Weights, int]:
  """The weights of one of a workdir's checkpoints, and its step.

  Adapters (`train.lora`) are added to the weights that they are for.

  Args:
    model: the model that the weights are for.
    workdir: folder of the run.
    warn: is called with a line for each checkpoint that had to be skipped.
    group: the processes that read.
    step: which checkpoint, see `RunCheckpoints.find`.
    key: the flag or config key that names the step, for errors.

  Raises:
    InputError: the checkpoint does not exist, or is of another model.
  """
  adapters = base_weights.adapters_of(workdir)
  own = model if adapters is None else lora.of(model, adapters)
  with checkpoints(workdir, warn, group) as saved:
    chosen = saved.find(step, key)
    # Of a whole training state, only the weights are read.
    wanted = {'weights': build.abstract(own)}
    state, _ = chosen.folder.restore(chosen.step, wanted, partial=True)
  weights = state['weights']
  if isinstance(own, lora.LoraModel):
    base = base_weights.read(own, workdir, group)
    weights = own.merged(base.weights, weights)
  return weights, chosen.step


def add_step_flag(flags: argparse.ArgumentParser) -> None:
  """Adds `--step`, which names a checkpoint of a workdir."""
  flags.add_argument(
    '--step',
    default=checkpoint.NEWEST,
    help='which checkpoint: newest (that is whole), best (of the lowest '
    'validation loss), or the step of any, kept ones too (default: '
    '%(default)s)',
  )
