"""Initial weights of a run: from `start`, or drawn from the seed."""

import jax
from etils import epath

from moejax.config import Run, kept_tokenizer
from moejax.convert import configs, load, whole
from moejax.convert import folder as folders
from moejax.core import errors
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.parallel.group import Group
from moejax.run import ranks, restore
from moejax.run.context import Context
from moejax.run.resources import NEAR, Resources
from moejax.train import checkpoint


def check(run: Run, folder: epath.Path, group: Group) -> None:
  """Checks `start` of a run that has no checkpoint yet; reads no weights.

  A run with a checkpoint no longer needs `start`, which may be gone.

  Args:
    run: the config.
    folder: workdir of the run.
    group: the processes of the run.

  Raises:
    InputError: `start` is missing or damaged, has another model, or has no
      checkpoint of `start_step`.
  """
  near = run.train.local_checkpoints and (folder / NEAR).exists()
  if not run.start or near or kept_tokenizer.has_begun(folder):
    return
  if not _is_workdir(run.start):
    _plan(run)
    return
  _check_model(_run_of(run).model, run)
  with restore.checkpoints(run.start, group=group) as saved:
    saved.find(run.start_step, 'start_step')


def make(context: Context, resources: Resources) -> build.Weights:
  """The weights, on the devices; the screen shows where they come from."""
  run = context.run
  if not run.start:
    return context.model.init(jax.random.key(run.seed))
  if _is_workdir(run.start):
    theirs = _run_of(run).model
    _check_model(theirs, run)
    model = ranks.source(context.model, theirs)
    weights, step = restore.weights(
      model,
      run.start,
      resources.screen.line,
      context.processes.group,
      step=run.start_step,
      key='start_step',
    )
    resources.screen.line(
      f'Beginning with the weights of {run.start}, step {step}.'
    )
    return ranks.changed(weights, model, context.model)
  plan = _plan(run)
  resources.screen.line(f'Beginning with the weights of {plan.folder.path}.')
  for line in load.remarks(plan):
    resources.screen.line(line)
  model = ranks.source(context.model, plan.config)
  return ranks.changed(load.weights(plan, model), model, context.model)


def _is_workdir(start: str) -> bool:
  return (epath.Path(start) / restore.CHECKPOINTS).exists()


def _run_of(run: Run) -> Run:
  """The config of the run in the workdir `start`."""
  try:
    return restore.run_of(run.start)
  except errors.InputError as e:
    raise errors.InputError(f'start={run.start}: {e}') from e


def _plan(run: Run) -> load.ImportPlan:
  """The plan to read the Hugging Face checkpoint in `start`."""
  if run.start_step != checkpoint.NEWEST:
    raise errors.InputError(
      f'start_step={run.start_step} is for the workdir of a run, but '
      f'start={run.start} has no {restore.CHECKPOINTS}/ in it: leave '
      'start_step out, or name a workdir'
    )
  try:
    plan = whole.plan(folders.open_folder(run.start))
  except errors.InputError as e:
    raise errors.InputError(f'start={run.start}: {e}') from e
  _check_model(plan.config, run)
  return plan


def _check_model(model: ModelConfig, run: Run) -> None:
  """Raises InputError unless the model of `start` is that of the run.

  Only the rank of its experts' matrices may be another one; see `ranks`.
  """
  model = ranks.of_rank(model, run.model.moe.low_rank)
  configs.check_same(model, run.model, f'start={run.start}')
