"""Composes a training run from its config: the one place that does.

What state a run starts from, in order of precedence:
  1. the newest checkpoint in its workdir that is whole,
  2. fresh weights from the seed.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from moejax.cli import command, data_progress, report, restore
from moejax.cli.parts import Parts
from moejax.cli.run_config import Run
from moejax.cli.screen import Screen
from moejax.core import config, errors, files, log
from moejax.data import build as data_build
from moejax.evals import perplexity
from moejax.evals.batches import eval_batches
from moejax.model import build
from moejax.moe import check
from moejax.parallel import hosts
from moejax.parallel import mesh as meshes
from moejax.plan import count
from moejax.train import checkpoint, loop, optimizer, signals, step
from moejax.train import state as states

VERSIONS = 'versions.json'


def train(run: Run, workdir: str) -> None:
  """Trains, or goes on, or says that there is nothing left to do.

  Raises:
    InputError: something in the config does not fit, or the workdir is
      unusable or another run's.
    StoppedError: training could not go on.
    InterruptedRunError: a signal came; the state was saved.
  """
  folder = epath.Path(workdir)
  mesh = meshes.make(run.mesh)
  rows = run.train.batch_size // run.train.micro_batches
  meshes.check_rows(rows, mesh, 'train.batch_size / train.micro_batches')
  model = build.build(run.model, mesh)
  files.check_writable(folder)
  check_same_config(run, folder)
  screen = Screen(
    run.train.steps,
    plain_every=run.train.log_every,
    first_layer=run.model.num_dense,
  )
  finished = report.read(folder)
  if finished is not None:
    screen.line(
      f'This run is finished: {folder} has all {run.train.steps} steps.'
    )
    report.show(finished, screen)
    return
  data = data_build.build(
    run.data, run.train.batch_size, run.seed, data_progress.lines(screen)
  )
  transform = optimizer.make(run.opt, run.train.steps, model.axes)
  parts = Parts(run, model, transform, data)
  files.atomic_write_json(folder / restore.CONFIG, config.to_dict(run))
  files.atomic_write_json(folder / VERSIONS, files.versions())
  _say_what(parts, folder, screen)
  with contextlib.ExitStack() as stack:
    stop = stack.enter_context(signals.StopSignal())
    checkpoints = stack.enter_context(
      checkpoint.Checkpointer(
        folder / restore.CHECKPOINTS,
        keep=run.train.keep_checkpoints,
        warn=screen.line,
      )
    )
    writer = stack.enter_context(contextlib.closing(log.open_writers(folder)))
    if run.model.num_moe:
      platform = mesh.devices.flat[0].platform
      check.run(run.model.moe, run.model.dtype, platform)
    state = _start(parts, checkpoints, writer, screen)
    stack.enter_context(screen)
    job = _job(parts, checkpoints, writer, screen, stop)
    result = loop.run(job, state)
  if result.interrupted:
    at = int(result.state.step)
    raise command.InterruptedRunError(
      f'{result.interrupted} at step {at} of {run.train.steps}; the state is '
      f'saved in {folder}. Run the same command to go on'
    )
  found = report.make(parts, result.state.weights, folder, screen)
  report.write(found, folder)
  report.show(found, screen)


def check_same_config(run: Run, folder: epath.Path) -> None:
  """Raises InputError if the workdir belongs to a run of another config."""
  if not (folder / restore.CONFIG).exists():
    return
  different = config.differences(restore.run_of(str(folder)), run)
  if different:
    keys = ', '.join(
      f'{k} ({a!r} there, {b!r} now)' for k, (a, b) in different.items()
    )
    raise errors.InputError(
      f'{folder} belongs to a run of another config: {keys}; use another '
      '--workdir, or the config that is there'
    )


def _say_what(parts: Parts, folder: epath.Path, screen: Screen) -> None:
  run = parts.run
  counted = count.count(run.model)
  experts = ''
  if run.model.num_moe:
    moe = run.model.moe
    experts = (
      f', {moe.num_experts} routed experts + {moe.num_shared} shared in '
      f'{run.model.num_moe} of {run.model.num_layers} layers'
    )
  screen.line(
    f'Model: {counted.total / 1e6:.1f}M parameters, '
    f'{counted.active / 1e6:.1f}M active per token{experts}.'
  )
  tokens = run.train.batch_size * run.data.sequence_length
  devices = parts.model.mesh.devices.size
  platform = parts.model.mesh.devices.flat[0].platform
  screen.line(
    f'Training: {run.train.steps} steps of {tokens} tokens on {devices} '
    f'{platform} device{"s" if devices > 1 else ""}; it is kept in {folder}.'
  )


def _start(
  parts: Parts,
  checkpoints: checkpoint.Checkpointer,
  writer: log.Writer,
  screen: Screen,
) -> states.State:
  """The newest whole checkpoint's state, or a fresh one."""
  found = checkpoints.restore_latest(
    states.abstract(parts.model, parts.transform)
  )
  if found is None:
    writer.truncate_after(0)
    key = jax.random.key(parts.run.seed)
    return states.init(parts.model, parts.transform, key)
  state, _ = found
  screen.line(f'Going on from the checkpoint of step {int(state.step)}.')
  writer.truncate_after(int(state.step))
  return state


def _job(
  parts: Parts,
  checkpoints: checkpoint.Checkpointer,
  writer: log.Writer,
  screen: Screen,
  stop: signals.StopSignal,
) -> loop.Job:
  run, model = parts.run, parts.model
  config_step = step.StepConfig(
    run.opt, run.train.steps, run.train.micro_batches, run.seed
  )
  length = run.data.sequence_length
  return loop.Job(
    config=run.train,
    step=step.make(model, parts.transform, config_step),
    batches=lambda start: _device_batches(parts, start),
    checkpoints=checkpoints,
    writer=writer,
    display=screen,
    tokens_per_batch=run.train.batch_size * length,
    flops_per_token=count.flops_per_token(run.model, length),
    extra={'config': config.to_dict(run)},
    hooks=[_validation_hook(parts)],
    stop_requested=lambda: stop.requested,
  )


@contextlib.contextmanager
def _device_batches(parts: Parts, start: int) -> Iterator[Iterator[Any]]:
  """Batches on the devices from step `start` on; read ahead by a thread."""
  with contextlib.closing(parts.data.train.iterate(start)) as batches:
    mesh = parts.model.mesh
    yield (hosts.put_rows(batch, mesh) for batch in batches)


def _validation_hook(parts: Parts) -> loop.Hook:
  """Losses on the first batches of each validation set, and their mean."""
  evaluate = perplexity.make_step(parts.model)
  limit = parts.run.train.eval_batches

  def hook(at: int, state: states.State) -> dict[str, float]:
    del at
    found = {}
    for name, cache in parts.data.validation.items():
      score = perplexity.evaluate(
        evaluate, state.weights, eval_batches(parts.model, cache, limit)
      )
      found[f'eval/{name}/loss'] = score.loss
    if found:
      found['eval/loss'] = sum(found.values()) / len(found)
    return found

  return hook
