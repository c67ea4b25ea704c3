"""Trains: makes model, data and training step from a config, and runs the loop.

A run starts from the first of these states that exists:
  1. the newest whole checkpoint in its workdir or on the fast disk
     (`train.local_checkpoints`),
  2. the weights of the checkpoint that `start` names,
  3. fresh weights, drawn from the seed.
"""

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Iterator
from typing import Any

from etils import epath
from jax.sharding import Mesh

from moejax.config import Run, kept_tokenizer, on_mesh, plugins
from moejax.core import (
  compile_cache,
  config_tree,
  errors,
  files,
  resume,
  terminal,
  versions,
)
from moejax.core.console import Console
from moejax.data import build as data_build
from moejax.evals import perplexity
from moejax.model import build, compute_dtype
from moejax.moe import self_check
from moejax.parallel import gloo, hosts
from moejax.parallel import mesh as meshes
from moejax.plan import count, sight_count
from moejax.run import (
  base_weights,
  benchmark_hook,
  compatibility,
  data_progress,
  first_lines,
  found_workdir,
  image_features,
  initial_weights,
  memory,
  page,
  report,
  restore,
  shared_workdir,
  teacher,
  training_traces,
)
from moejax.run.context import Context
from moejax.run.processes import ALONE, Processes
from moejax.run.resources import Resources, open_resources
from moejax.run.screen import Screen
from moejax.train import bad_steps, goodput, loop, lora, optimizer, step
from moejax.train import state as states

VERSIONS, RESUMED = 'versions.json', 'resumed'


def train(
  run: Run,
  workdir: str,
  began: float | None = None,
  processes: Processes = ALONE,
) -> None:
  """Trains a run to its end, from its newest checkpoint if it has one.

  Of a finished run it shows the report.

  Args:
    run: the config.
    workdir: the folder for all files that the run writes.
    began: when the process began, by `time.monotonic`, in seconds; default:
      now.
    processes: the processes of the run; default: this one alone.

  Raises:
    InputError: values of the config do not fit together, or the workdir cannot
      be written or belongs to another run.
    DoesNotFitError: the run needs more memory than there is.
    StoppedError: training could not go on.
    InterruptedRunError: a signal came; the state was saved.
  """
  folder = epath.Path(workdir)
  path = folder / goodput.FILE if processes.main else None
  spent = goodput.Goodput(path, began=began)
  mesh = meshes.make(run.mesh)
  on_mesh.check(run, mesh)
  hosts.connect(mesh, processes.group)
  if processes.main:
    found_workdir.write_missing_config(folder, terminal.say)
  run = with_dtype(run, folder, mesh, processes)
  model = build.build(run.model, mesh)
  if report.read(folder) is None:  # a report is shown on any machine
    memory.check(run, model, processes.group.count)
  files.check_writable(folder)
  with (
    files.locked(folder, terminal.say)
    if processes.main
    else contextlib.nullcontext()
  ):
    if processes.main:
      found_workdir.say_other_files(folder, terminal.say)
    shared_workdir.check_shared(folder, processes.group)
    _train(run, model, folder, spent, processes)


def with_dtype(
  run: Run, folder: epath.Path, mesh: Mesh, processes: Processes
) -> Run:
  """The run with the type that `model.dtype=auto` stands for in a workdir.

  A run that was begun there keeps its type, on whatever machine.

  Args:
    run: the config.
    folder: its workdir.
    mesh: the devices that compute.
    processes: the processes of the run; process 0 chooses.
  """
  if run.model.dtype != resume.AUTO:
    return run

  def dtype() -> str:
    if (folder / restore.CONFIG).exists():
      return restore.run_of(str(folder)).model.dtype
    return compute_dtype.resolve(run.model.dtype, [*mesh.devices.flat])

  model = dataclasses.replace(
    run.model, dtype=processes.group.broadcast('model.dtype', dtype)
  )
  return dataclasses.replace(run, model=model)


def _train(
  run: Run,
  model: build.Model,
  folder: epath.Path,
  spent: goodput.Goodput,
  processes: Processes,
) -> None:
  compatibility.check_workdir(run, folder)
  screen = Screen(
    run.train.steps,
    plain_every=run.train.log_every,
    first_layer=run.model.num_dense,
    console=None if processes.main else Console(quiet=True),
  )
  finished = processes.group.broadcast('report', lambda: report.read(folder))
  if finished is not None and compatibility.finished(run, folder, screen.line):
    screen.line(
      f'This run is finished: {folder} has all {run.train.steps} steps.'
    )
    report.show(finished, screen)
    return
  with compile_cache.kept(run.train.compile_cache, folder, screen.line):
    initial_weights.check(run, folder, processes.group)
    source = teacher.open_source(run, folder, model.mesh, processes.group)
    context = _context(run, model, screen, processes, source)
    _train_the_rest(context, folder, screen, spent)


def _context(
  run: Run,
  model: build.Model,
  screen: Screen,
  processes: Processes,
  source: teacher.Source | None,
) -> Context:
  # Tracing finds errors of the config before any text is packed.
  model.trace(run.train.batch_size, run.data.sequence_length)
  ask = lambda: benchmark_hook.ask(run.evals, screen.line)
  asked = processes.group.main_first('benchmarks', ask)
  show = data_progress.lines(screen.line)
  data = processes.group.main_first(
    'data',
    lambda: data_build.build(
      run.data,
      run.train.batch_size,
      run.seed,
      show,
      steps=run.train.steps,
    ),
  )
  learner = lora.learner(model, run.train.lora)
  image_features.check(run, learner, data)
  if run.model.num_moe:
    with gloo.quiet(processes.group.count > 1):
      of = run.model
      self_check.run(of.moe, of.dtype, model.mesh, of.quantization)
  transform = optimizer.make(run.opt, run.train.steps, learner.decays)
  context = Context(run, model, transform, data, processes, asked, source)
  benchmark_hook.check(context)
  return context


def _train_the_rest(
  context: Context, folder: epath.Path, screen: Screen, spent: goodput.Goodput
) -> None:
  run, processes = context.run, context.processes
  if processes.main:
    _write_versions(folder)
  first_lines.say(context, folder, screen)
  with (
    open_resources(context, folder, screen, spent) as resources,
    processes.guard(),
  ):
    state, loaded, base = _start(context, resources)
    if processes.main:
      # Not before the text is compared: the tokenizer of a run that is refused
      # must not be taken for that of an old workdir without a copy.
      kept_tokenizer.keep(
        run.data.vocab, folder, run.start, screen.line, run.data.chat_used()
      )
      plugins.keep(run.plugin, folder)
      # From here the workdir has this config, and an older report is stale.
      report.remove(folder)
      files.atomic_write_json(folder / restore.CONFIG, config_tree.to_dict(run))
    with screen, resources.watchdog:
      inputs = _loop_inputs(context, resources, loaded, base)
      result = loop.run(inputs, state)
    best = resources.checkpoints.best()
    spent.keep()
  if result.interrupted:
    at = int(result.state.step)
    raise errors.InterruptedRunError(
      f'{result.interrupted} at step {at} of {run.train.steps}; the state is '
      f'saved in {folder}. Run the same command to go on'
    )
  with spent.part('evaluation'):
    weights = base_weights.whole(base, result.state).weights
    results = report.make(context, weights, folder, screen)
    counted = count.count(run.model)
    results |= {
      'steps': run.train.steps,
      'best': best,
      'total_parameters': counted.total,
      'active_parameters': counted.active,
      'training_flops': sight_count.training_flops(run),
    }
  spent.keep()
  if processes.main:
    report.write(results, folder)
    if run.report.page:
      with spent.part('evaluation'):
        page.write_or_say(
          [os.fspath(folder)], folder / report.PAGE, screen.line
        )
  spent.keep()
  report.show(results, screen)
  screen.line('')
  for line in spent.table():
    screen.line(line)


def _write_versions(folder: epath.Path) -> None:
  """Writes versions.json: versions at the first start and at changes since."""
  path, now = folder / VERSIONS, versions.versions()
  if not path.exists():
    files.atomic_write_json(path, {**now, RESUMED: []})
    return
  kept = json.loads(path.read_text())
  first = {key: value for key, value in kept.items() if key != RESUMED}
  if now != [first, *kept[RESUMED]][-1]:
    files.atomic_write_json(path, {**first, RESUMED: [*kept[RESUMED], now]})


def _start(
  context: Context, resources: Resources
) -> tuple[states.State, teacher.Loaded | None, base_weights.Base | None]:
  """The state of the newest whole checkpoint, or that of a new run.

  Beside it stand the weights of the teacher, and those below adapters, if there
  are any.
  """
  learner, folder = context.learner, resources.folder
  parts, base = (learner, context.transform), None
  rules = context.run.train.skip_spikes, context.run.train.sparsity
  with resources.spent.part('restore'):
    latest = resources.checkpoints.restore_latest(
      states.abstract(*parts, *rules)
    )
    if latest is None:
      weights = initial_weights.make(context, resources)
      if isinstance(learner, lora.LoraModel):
        group = context.processes.group
        base = base_weights.keep(learner, weights, folder, group)
        key = base_weights.fresh_key(context.run.seed)
        weights = learner.begin(weights, key)
      state = states.begin(*parts, weights, *rules)
    elif isinstance(learner, lora.LoraModel):
      base = base_weights.read(learner, folder, context.processes.group)
    loaded = teacher.load(
      context.teacher,
      context.run,
      None if latest is None else latest[1],
      context.processes.group,
      resources.screen.line,
    )
  if latest is None:
    compatibility.say_begun_anew(
      context.run, resources.folder, resources.screen.line
    )
    resources.go_on_from(0)
    # Weights of step 0 may be those of another config.
    resources.checkpoints.forget_kept_after(-1)
    return state, loaded, base
  state, extra = latest
  compatibility.check_checkpoint(
    context.run, context.data, int(state.step), extra, resources.screen.line
  )
  resources.screen.line(
    f'Going on from the checkpoint of step {int(state.step)}.'
  )
  resources.go_on_from(int(state.step))
  return state, loaded, base


def _loop_inputs(
  context: Context,
  resources: Resources,
  loaded: teacher.Loaded | None,
  base: base_weights.Base | None,
) -> loop.LoopInputs:
  run, learner, group = context.run, context.learner, context.processes.group
  screen, length = resources.screen, run.data.sequence_length
  taught_by = None if context.teacher is None else context.teacher.model
  made = step.make(
    learner, context.transform, run.opt, run.train, run.seed, taught_by
  )
  given = teacher.given(base_weights.given(made, base), loaded)
  hooks = training_traces.with_traces(
    _validation_hook(context, screen), context, resources.folder, screen.line
  )
  seen = functools.partial(base_weights.seen_by, base)
  periodic = benchmark_hook.hooks(context, screen)
  return loop.LoopInputs(
    config=run.train,
    step=screen.first_shown(given, 'Compiling the training step'),
    batches=lambda start: _device_batches(context, start),
    checkpoints=resources.checkpoints,
    writer=resources.writer,
    display=screen,
    tokens_per_batch=run.train.batch_size * length,
    flops_per_token=sight_count.flops_per_token(run),
    extra=compatibility.extra_of(run, context.data) | teacher.extra(loaded),
    hooks=[seen(hook) for hook in hooks],
    periodic_hooks=[(every, seen(hook)) for every, hook in periodic],
    stop_requested=lambda step: group.agree(resources.stop.after(step), step),
    tokens=context.data.counts.tokens,
    bad_step=bad_steps.BadSteps(
      names=bad_steps.names_of(learner.shapes),
      seed=run.seed,
      rows=context.data.train.rows_of,
      writer=resources.bad_steps,
    ).see,
    beat=resources.watchdog.beat,
    goodput=resources.spent,
    profiler=resources.profiler,
  )


@contextlib.contextmanager
def _device_batches(context: Context, start: int) -> Iterator[Iterator[Any]]:
  """Batches from step `start` on, on the devices; a thread reads ahead."""
  mesh, train = context.model.mesh, context.data.train
  rows = hosts.my_rows(train.batch_size, mesh)
  with contextlib.closing(train.iterate(start, rows)) as batches:
    yield (hosts.put_rows(b, mesh, rows, train.batch_size) for b in batches)


def _validation_hook(context: Context, screen: Screen) -> loop.Hook:
  """A hook that evaluates on the first batches of each validation set.

  Its metrics are `eval/<domain>/loss`, and their mean `eval/loss`.
  """
  step = perplexity.step_of(context.model)

  def hook(at: int, state: states.State) -> dict[str, float]:
    del at
    scores = perplexity.score_sets(
      step,
      context.model,
      state.weights,
      context.data.validation,
      limit=context.run.train.eval_batches,
      track=screen.track,
    )
    losses = {f'eval/{name}/loss': score.loss for name, score in scores.items()}
    if losses:
      losses['eval/loss'] = sum(losses.values()) / len(losses)
    return losses

  return hook
