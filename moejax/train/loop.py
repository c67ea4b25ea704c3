"""The loop over steps: dispatch step n, then look at step n - 1.

Model, state, data, checkpoints, writers and hooks are made by `run/train.py`
and passed in as `LoopInputs`. Each iteration does, in this order:

  1. hand the batch of step n to the devices and dispatch the step;
  2. fetch the metrics of step n - 1 while step n computes; write and show them,
     and stop if too many steps in a row were not finite;
  3. at a boundary that is due (or when a signal asks), fetch step n as well,
     evaluate, and save. What a checkpoint's step wrote is on disk before the
     checkpoint is, so a resumed run's files have no gap.
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
from moejax.train.state import State

# The first step compiles; the second may still wait for that.
UNTIMED_STEPS = 2


class Checkpoints(Protocol):
  """What the loop needs of `tiers.Tiers`."""

  def save(self, step: int, state: Any, extra: dict[str, Any]) -> None: ...

  def save_near(self, step: int, state: Any, extra: dict[str, Any]) -> None: ...

  def check(self) -> None: ...

  def wait(self) -> None: ...

  def is_best(self, step: int, value: float) -> bool: ...

  def mark_best(self, step: int, value: float) -> None: ...


class Display(Protocol):
  """What the loop needs of `run.screen.Screen`."""

  def update(
    self, step: int, values: dict[str, float], load_NE: np.ndarray | None
  ) -> None: ...


# (step, state) -> values to write under that step.
Hook = Callable[[int, State], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class LoopInputs:
  """Everything that the loop needs besides the state.

  Attributes:
    config: when to do what.
    step: the jitted step.
    batches: batches on the devices, from a given step on.
    tokens_per_batch: for throughput.
    flops_per_token: of training, by the paper's rule, for utilisation.
    extra: what to store with every checkpoint (the config, say).
    hooks: evaluations, called every `eval_every` steps.
    stop_requested: the name of what asks to stop after a step, such as a
      signal, or None; called once for every step.
    bad_step: called with (step, scalars, norms of the gradient's leaves) of
      every step; records the steps that were not taken.
    beat: called with the name of what has ended, for a watchdog.
    goodput: counts the seconds of each part.
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
  bad_step: Callable[..., None] = lambda *_: None
  beat: Callable[[str], None] = lambda _: None
  goodput: Goodput = dataclasses.field(default_factory=Goodput)


@dataclasses.dataclass(frozen=True)
class LoopResult:
  """How the loop ended.

  Attributes:
    state: after the last step taken.
    interrupted: the signal that ended it early, or None.
  """

  state: State
  interrupted: str | None


def run(inputs: LoopInputs, state: State) -> LoopResult:
  """Trains from the state's step to the last.

  Raises:
    StoppedError: the loss was not finite too often in a row, or a checkpoint
      could not be saved.
  """
  with inputs.goodput.part('step'):
    return _run(inputs, state)


def _run(inputs: LoopInputs, state: State) -> LoopResult:
  start = int(state.step)
  meter = _Meter(inputs)
  pending: tuple[int, Any] | None = None
  signal = None
  with inputs.batches(start) as batches:
    for step in range(start + 1, inputs.config.steps + 1):
      with inputs.goodput.part('data_wait'):
        batch = next(batches)
      phase = 'compile' if step == start + 1 else 'step'
      with inputs.goodput.part(phase), jax.transfer_guard('disallow'):
        state, metrics = inputs.step(state, batch)
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
  every = (config.checkpoint_every, config.eval_every)
  return (
    step == config.steps
    or any(step % n == 0 for n in every)
    or _near_due(config, step)
  )


def _near_due(config: TrainConfig, step: int) -> bool:
  every = config.local_checkpoint_every
  return bool(config.local_checkpoints) and step % every == 0


def _boundary(
  inputs: LoopInputs, meter: '_Meter', step: int, state: State, *, save: bool
) -> None:
  """Evaluates and saves, whichever is due after `step`."""
  config = inputs.config
  begin = time.perf_counter()
  at_end = step == config.steps
  evaluated: dict[str, float] = {}
  if at_end or step % config.eval_every == 0:
    with inputs.goodput.part('evaluation'):
      for hook in inputs.hooks:
        evaluated |= hook(step, state)
        inputs.beat(f'an evaluation after step {step}')
    inputs.writer.write(step, evaluated)
  loss = evaluated.get('eval/loss')
  with inputs.goodput.part('save'):
    if _near_due(config, step):
      inputs.checkpoints.save_near(step, state, inputs.extra)
    if save or at_end or step % config.checkpoint_every == 0:
      save = True
    elif config.save_best and loss is not None:
      save = inputs.checkpoints.is_best(step, loss)
    if save:
      # Marked first: the save removes checkpoints, but not the best one.
      if loss is not None:
        inputs.checkpoints.mark_best(step, loss)
      inputs.checkpoints.save(step, state, inputs.extra)
    inputs.goodput.keep()
  inputs.beat(f'the boundary after step {step}')
  meter.pause(time.perf_counter() - begin)


def _report(
  inputs: LoopInputs, meter: '_Meter', step: int, metrics: Any
) -> str | None:
  """Fetches, writes and shows a step's metrics; returns why to stop, if so."""
  metrics = jax.device_get(metrics)
  speed = meter.stop()
  inputs.beat(f'step {step}')
  norms = metrics.pop(bad_steps.LEAF_NORMS, None)
  routing = metrics.pop('stats', None)
  scalars = {name: float(value) for name, value in metrics.items()}
  load_NE = None
  if routing is not None:
    load_NE = stats.load(np.asarray(routing['count_E'], np.float64))
    scalars |= {f'moe/{k}': v for k, v in stats.summarise(routing).items()}
  config = inputs.config
  record: dict[str, Any] = {}
  if step % config.log_every == 0 or step == config.steps:
    record |= {**scalars, **speed, **inputs.goodput.values()}
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
  """Why training cannot go on, if too many steps in a row were not finite."""
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
    self._job = inputs
    self._seen = 0
    self._last = time.perf_counter()
    self._pause = 0.0

  def pause(self, seconds: float) -> None:
    """Time since the last report that was not training."""
    self._pause += seconds

  def stop(self) -> dict[str, float]:
    """Speed of the step that has just been fetched; empty while warming up."""
    now = time.perf_counter()
    seconds = max(now - self._last - self._pause, 1e-9)
    self._last, self._pause = now, 0.0
    self._seen += 1
    if self._seen <= UNTIMED_STEPS:
      return {}
    inputs = self._job
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
