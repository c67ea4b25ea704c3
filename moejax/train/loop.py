"""The loop over steps: it dispatches step n, then reports step n - 1.

Model, state, data, checkpoints, writers and hooks are made by `run/train.py`
and passed in as `LoopInputs`. Each iteration does, in this order:

  1. It dispatches step n with its batch.
  2. It fetches the metrics of step n - 1 while step n computes, writes and
     shows them, and stops if too many steps in a row were not finite.
  3. At a boundary (an evaluation or a save is due, or a signal asks to stop) it
     fetches step n as well, evaluates, and saves. The metrics of a checkpoint's
     step are on disk before the checkpoint, so that the files of a resumed run
     have no gap.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from moejax.core import errors, log
from moejax.data.batch import Batch
from moejax.moe import stats
from moejax.train import bad_steps
from moejax.train.config import TrainConfig
from moejax.train.goodput import Goodput
from moejax.train.profile import Profiler
from moejax.train.state import State

# Steps at the start without a measured speed: the first one compiles, and the
# second may still wait for that.
UNTIMED_STEPS = 2


class Checkpoints(Protocol):
  """The methods of `tiers.Tiers` that the loop calls."""

  def save(self, step: int, state: Any, extra: dict[str, Any]) -> None: ...

  def save_near(self, step: int, state: Any, extra: dict[str, Any]) -> None: ...

  def keep(self, step: int, weights: Any, extra: dict[str, Any]) -> None: ...

  def check(self) -> None: ...

  def wait(self) -> None: ...

  def is_best(self, step: int, value: float) -> bool: ...

  def mark_best(self, step: int, value: float) -> None: ...


class Display(Protocol):
  """The methods of `run.screen.Screen` that the loop calls."""

  def update(
    self, step: int, values: dict[str, float], load_NE: np.ndarray | None
  ) -> None: ...


# An evaluation: (step, state) -> metrics to write under that step.
Hook = Callable[[int, State], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class LoopInputs:
  """Everything that the loop needs besides the state.

  Attributes:
    config: number of steps, and when to log, evaluate and save.
    step: the jitted training step.
    batches: opens an iterator over batches on the devices, from the batch of
      the given number on.
    checkpoints: saves the state.
    writer: writes the metrics.
    display: shows the metrics.
    tokens_per_batch: number of tokens of a batch, for throughput.
    flops_per_token: FLOPs of training one token, for model-FLOPs utilisation.
    extra: JSON that is stored with every checkpoint, such as the config.
    hooks: evaluations, called every `eval_every` steps.
    periodic_hooks: evaluations with periods of their own: (steps, evaluation).
    stop_requested: called once after every step with its number; returns the
      name of the signal that asks to stop after this step, or None.
    tokens: tokens read from each source of the text in the first steps, by the
      number of these; they are the metrics `data/<source>/tokens`, and `tokens`
      in the JSON of a checkpoint.
    bad_step: called with (step, scalars, norms of the gradient's leaves) of
      every step; records the steps whose update was skipped.
    beat: called with the name of a step or evaluation that has ended, for the
      watchdog.
    goodput: counts the seconds of each part.
    profiler: profiles the steps that the config names.
  """

  config: TrainConfig
  step: Callable[[State, Batch], tuple[State, dict[str, Any]]]
  batches: Callable[[int], contextlib.AbstractContextManager[Iterator[Batch]]]
  checkpoints: Checkpoints
  writer: log.Writer
  display: Display
  tokens_per_batch: int
  flops_per_token: float
  extra: dict[str, Any]
  hooks: Sequence[Hook]
  stop_requested: Callable[[int], str | None]
  tokens: Callable[[int], dict[str, int]] = lambda _: {}
  periodic_hooks: Sequence[tuple[int, Hook]] = ()
  bad_step: Callable[..., None] = lambda *_: None
  beat: Callable[[str], None] = lambda _: None
  goodput: Goodput = dataclasses.field(default_factory=Goodput)
  profiler: Profiler = dataclasses.field(default_factory=Profiler)


@dataclasses.dataclass(frozen=True)
class LoopResult:
  """How the loop ended.

  Attributes:
    state: state after the last step of the loop.
    interrupted: name of the signal that ended the loop early, or None.
  """

  state: State
  interrupted: str | None


def run(inputs: LoopInputs, state: State) -> LoopResult:
  """Trains from the state's step to the last step.

  Raises:
    StoppedError: too many steps in a row had a loss or gradient that is not
      finite, or a checkpoint could not be saved.
  """
  with inputs.goodput.part('step'):
    return _run(inputs, state)


def _run(inputs: LoopInputs, state: State) -> LoopResult:
  start = int(state.step)
  _keep(inputs, start, state)
  meter = _Meter(inputs)
  pending: tuple[int, Any] | None = None
  signal = None
  with inputs.batches(start) as batches:
    for step in range(start + 1, inputs.config.steps + 1):
      inputs.profiler.before(step, pending)
      with inputs.goodput.part('data_wait'):
        batch = next(batches)
      phase = 'compile' if step == start + 1 else 'step'
      with (
        inputs.goodput.part(phase),
        jax.transfer_guard('disallow'),
        inputs.profiler.step(step),
      ):
        state, metrics = inputs.step(state, batch)
      meter.pause(inputs.profiler.after(step, metrics))
      problem = _report(inputs, meter, *pending) if pending else None
      pending = (step, metrics)
      inputs.checkpoints.check()
      signal = inputs.stop_requested(step)
      if problem or signal or _due(inputs, step):
        last_problem = _report(inputs, meter, *pending)
        problem = problem or last_problem
        pending = None
        _boundary(inputs, meter, step, state, save=bool(problem or signal))
      if problem:
        inputs.checkpoints.wait()
        raise errors.StoppedError(problem)
      if signal:
        break
  inputs.checkpoints.wait()
  done = int(state.step) >= inputs.config.steps
  return LoopResult(state, None if done else signal)


def _due(inputs: LoopInputs, step: int) -> bool:
  config = inputs.config
  return (
    step == config.steps
    or step % config.checkpoint_every == 0
    or bool(_hooks_due(inputs, step))
    or _near_due(config, step)
    or config.keeps(step)
  )


def _hooks_due(inputs: LoopInputs, step: int) -> list[Hook]:
  """The evaluations after a step; after the last step, all of them."""
  periods = [(inputs.config.eval_every, hook) for hook in inputs.hooks]
  periods += inputs.periodic_hooks
  at_end = step == inputs.config.steps
  return [hook for every, hook in periods if at_end or step % every == 0]


def _near_due(config: TrainConfig, step: int) -> bool:
  every = config.local_checkpoint_every
  return bool(config.local_checkpoints) and step % every == 0


def _keep(inputs: LoopInputs, step: int, state: State) -> None:
  """Keeps the weights after a step, if the config says so.

  A run calls it for the step that it starts from too: step 0, or a step that
  was saved when the config did not name it yet.
  """
  if inputs.config.keeps(step):
    with inputs.goodput.part('save'):
      extra = {**inputs.extra, 'tokens': inputs.tokens(step)}
      inputs.checkpoints.keep(step, state.weights, extra)


def _boundary(
  inputs: LoopInputs, meter: '_Meter', step: int, state: State, *, save: bool
) -> None:
  """Evaluates and saves, whichever is due after `step`."""
  config = inputs.config
  begin = time.perf_counter()
  at_end = step == config.steps
  extra = {**inputs.extra, 'tokens': inputs.tokens(step)}
  evaluated: dict[str, float] = {}
  if hooks := _hooks_due(inputs, step):
    with inputs.goodput.part('evaluation'):
      for hook in hooks:
        evaluated |= hook(step, state)
        inputs.beat(f'an evaluation after step {step}')
    inputs.writer.write(step, evaluated)
  loss = evaluated.get('eval/loss')
  # Before the state: a run that resumes does not come to this step again.
  _keep(inputs, step, state)
  with inputs.goodput.part('save'):
    if _near_due(config, step):
      inputs.checkpoints.save_near(step, state, extra)
    if save or at_end or step % config.checkpoint_every == 0:
      save = True
    elif config.save_best and loss is not None:
      save = inputs.checkpoints.is_best(step, loss)
    if save:
      # The metric is stored first: a save removes old checkpoints, except the
      # best one.
      if loss is not None:
        inputs.checkpoints.mark_best(step, loss)
      inputs.checkpoints.save(step, state, extra)
    inputs.goodput.keep()
  inputs.beat(f'the boundary after step {step}')
  took = time.perf_counter() - begin
  meter.pause(took)
  inputs.profiler.pause(took)


def _report(
  inputs: LoopInputs, meter: '_Meter', step: int, metrics: Any
) -> str | None:
  """Fetches, writes and shows a step's metrics.

  Returns:
    Why training must stop, or None.
  """
  metrics = jax.device_get(metrics)
  speed = meter.stop()
  inputs.beat(f'step {step}')
  norms = metrics.pop(bad_steps.LEAF_NORMS, None)
  routing = metrics.pop('stats', None)
  vision = metrics.pop('vision_stats', {})
  scalars = {name: float(value) for name, value in metrics.items()}
  load_NE = None
  if routing is not None:
    count_NE = np.asarray(routing['count_E'], np.float64)
    load_NE = stats.load(count_NE)
    scalars |= {f'moe/{k}': v for k, v in stats.summarise(routing).items()}
  for part, own in vision.items():
    summary = stats.summarise(own).items()
    scalars |= {f'vision/{part}/{k}': v for k, v in summary}
  config = inputs.config
  record: dict[str, Any] = {}
  if step % config.log_every == 0 or step == config.steps:
    record |= {**scalars, **speed, **inputs.goodput.values()}
    tokens = inputs.tokens(step)
    record |= {f'data/{name}/tokens': n for name, n in tokens.items()}
  every = config.load_every
  if load_NE is not None and every and step % every == 0:
    record['moe/load'] = load_NE
  if record:
    inputs.writer.write(step, record)
  inputs.bad_step(step, scalars, norms)
  inputs.display.update(step, {**scalars, **speed}, load_NE)
  return _problem(inputs, step, scalars)


def _problem(
  inputs: LoopInputs, step: int, scalars: dict[str, float]
) -> str | None:
  """Why training must stop: too many steps in a row not finite; or None."""
  if scalars['bad_steps'] < inputs.config.max_bad_steps:
    return None
  names = [n for n in ('loss', 'gradient_norm') if not np.isfinite(scalars[n])]
  return (
    f'{" and ".join(names)} was not finite at step {step}, the '
    f'{int(scalars["bad_steps"])}th step in a row; the weights of the last '
    'good step are saved. Lower opt.peak_lr in another --workdir, or raise '
    'train.max_bad_steps here'
  )


class _Meter:
  """Throughput between reports, without compilation, evaluation and saving."""

  def __init__(self, inputs: LoopInputs):
    self._inputs = inputs
    self._num_reports = 0
    self._last = time.perf_counter()
    self._pause = 0.0

  def pause(self, seconds: float) -> None:
    """Excludes seconds since the last report, which were not training."""
    self._pause += seconds

  def stop(self) -> dict[str, float]:
    """Speed of the step just fetched; empty for the first UNTIMED_STEPS."""
    now = time.perf_counter()
    seconds = max(now - self._last - self._pause, 1e-9)
    self._last, self._pause = now, 0.0
    self._num_reports += 1
    if self._num_reports <= UNTIMED_STEPS:
      return {}
    inputs = self._inputs
    speed = inputs.tokens_per_batch / seconds
    measured = {
      f'{log.TIME}step_s': seconds,
      f'{log.TIME}tokens_per_s': speed,
    }
    if inputs.config.peak_tflops:
      share = (
        speed * inputs.flops_per_token / (inputs.config.peak_tflops * 1e12)
      )
      measured[f'{log.TIME}model_flops_utilisation'] = share
    return measured
