"""Learning-rate schedules by name; each gives a share of the peak rate."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from moejax.core import errors, fields

# Share of a run's steps that is warm-up. DeepSeekMoE 16B: 2,000 of 106,449
# steps (arXiv 2401.06066, section 5.1.2).
WARMUP_SHARE = 0.02


@dataclasses.dataclass(frozen=True)
class Schedule(fields.Checked):
  """Linear warm-up, then `after_warmup`, which each schedule defines.

  Attributes:
    warmup: number of steps from 1 / warmup of the peak to the peak; 0 for no
      warm-up. None means 2% of the run's steps, rounded up; a run that is made
      longer then has a longer warm-up.
  """

  warmup: int | None = fields.number(
    None, at_least=0, note='none: 2% of train.steps'
  )

  def __call__(self, total_steps: int) -> optax.Schedule:
    """The share of the peak at each step, counted from 0."""
    warmup = self.warmup_steps(total_steps)
    # Not optax.linear_schedule, which rounds differently.
    ramp = lambda step: (step + 1) / max(warmup, 1)
    after = self.after_warmup(total_steps, warmup)
    return optax.join_schedules([ramp, after], [warmup])

  def after_warmup(self, total_steps: int, warmup: int) -> optax.Schedule:
    """The share of the peak at each step, counted from the end of warm-up."""
    raise NotImplementedError

  def warmup_steps(self, total_steps: int) -> int:
    """The number of steps of the warm-up.

    Example: with warmup=None, 20 of 1,000 steps.
    """
    if self.warmup is None:
      return math.ceil(round(WARMUP_SHARE * total_steps, 6))
    return self.warmup

  def check(self, total_steps: int) -> None:
    """Raises InputError if the run ends before the peak is reached."""
    if self.warmup is not None and self.warmup > total_steps:
      raise errors.InputError(
        f'opt.schedule.warmup={self.warmup} is longer than the run, '
        f'train.steps={total_steps}; lower it, or set it to none for '
        f'{WARMUP_SHARE:.0%} of the run'
      )

  def check_used(self) -> None:
    """Raises InputError for values that are surely a slip.

    Only new runs are checked: a run that has begun keeps its schedule.
    """


@dataclasses.dataclass(frozen=True)
class StepSchedule(Schedule):
  """Linear warm-up, then a drop by `factor` at each milestone.

  DeepSeekMoE (arXiv 2401.06066, section 4.1.2): 2,000 steps of warm-up, times
  0.316 at 80% and again at 90% of the training steps.

  Attributes:
    factor: what the rate is multiplied by at each milestone.
    milestones: shares of the run's steps.
  """

  factor: float = fields.number(0.316, at_least=0, at_most=1)
  milestones: tuple[float, ...] = fields.number(
    (0.8, 0.9), at_least=0, at_most=1
  )

  def check_used(self) -> None:
    listed = ','.join(f'{m:g}' for m in self.milestones)
    rising = sorted({*self.milestones})
    if list(self.milestones) != rising:
      raise errors.InputError(
        f'opt.schedule.milestones={listed} are shares of the run and must rise '
        f'from each to the next: set {",".join(f"{m:g}" for m in rising)}'
      )

  def after_warmup(self, total_steps: int, warmup: int) -> optax.Schedule:
    starts = [round(m * total_steps) - warmup for m in self.milestones]

    def share(step: Any) -> jax.Array:
      factors = [jnp.where(step < start, 1.0, self.factor) for start in starts]
      return math.prod(factors, start=jnp.ones(()))

    return share


@dataclasses.dataclass(frozen=True)
class CosineSchedule(Schedule):
  """Linear warm-up, then half a cosine down to `end` at the last step.

  Attributes:
    end: share of the peak at the end.
  """

  end: float = fields.number(0.1, at_least=0, at_most=1)

  def after_warmup(self, total_steps: int, warmup: int) -> optax.Schedule:
    length = max(total_steps - warmup, 1)
    return optax.cosine_decay_schedule(1.0, length, self.end)


@dataclasses.dataclass(frozen=True)
class WarmupStableDecaySchedule(Schedule):
  """Linear warm-up, constant, then linear to `end`.

  Attributes:
    decay: share of the run's steps over which the rate falls at the end.
    end: share of the peak at the end.
  """

  decay: float = fields.number(0.1, at_least=0, at_most=1)
  end: float = fields.number(0.0, at_least=0, at_most=1)

  def after_warmup(self, total_steps: int, warmup: int) -> optax.Schedule:
    length = max(round(self.decay * total_steps), 1)
    decay = optax.linear_schedule(1.0, self.end, length)
    # Negative if the warm-up ends after the decay has begun.
    start = total_steps - length - warmup
    return lambda step: decay(step - start)


@dataclasses.dataclass(frozen=True)
class ConstantSchedule(Schedule):
  """Linear warm-up, then constant (DeepSeekMoE 145B, section 7.1)."""

  def after_warmup(self, total_steps: int, warmup: int) -> optax.Schedule:
    del total_steps, warmup
    return optax.constant_schedule(1.0)


# name in a config -> the class
SCHEDULES: dict[str, type[Schedule]] = {
  'constant': ConstantSchedule,
  'cosine': CosineSchedule,
  'steps': StepSchedule,
  'warmup_stable_decay': WarmupStableDecaySchedule,
}
