"""Learning rates over a run, by name; each multiplies the peak."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax

from moejax.core import errors, fields

# Of DeepSeekMoE 16B: 2,000 steps of 106,449 (arXiv 2401.06066, section 5.1.2).
WARMUP_SHARE = 0.02


@dataclasses.dataclass(frozen=True)
class Schedule(fields.Checked):
  """Linear warm-up, then what a subclass does.

  Attributes:
    warmup: steps from 1 / warmup of the peak to the peak; 0 for none. None is
      2% of the steps of the run, rounded up: then a run that is made longer has
      a longer warm-up.
  """

  warmup: int | None = fields.number(
    None, at_least=0, note='none: 2% of train.steps'
  )

  def __call__(self, total_steps: int) -> optax.Schedule:
    """The share of the peak at each step, counted from 0."""
    raise NotImplementedError

  def warmup_steps(self, total_steps: int) -> int:
    """How many steps the warm-up has.

    Example: none of 1,000 steps is 20.
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

  def _warm_up(self, after: optax.Schedule, total_steps: int) -> optax.Schedule:
    """The warm-up, then `after`."""
    warmup = self.warmup_steps(total_steps)
    ramp = lambda step: (step + 1) / max(warmup, 1)
    return lambda step: jnp.where(step < warmup, ramp(step), after(step))


@dataclasses.dataclass(frozen=True)
class Steps(Schedule):
  """Linear warm-up, then times `factor` at each milestone.

  DeepSeekMoE (arXiv 2401.06066, section 4.1.2): 2,000 steps of warm-up, times
  0.316 at 80% and again at 90% of the training steps.
  """

  factor: float = fields.number(0.316, at_least=0, at_most=1)
  milestones: tuple[float, ...] = fields.number(
    (0.8, 0.9), at_least=0, at_most=1
  )

  def __call__(self, total_steps: int) -> optax.Schedule:
    starts = [round(m * total_steps) for m in self.milestones]

    def after(step: jax.Array) -> jax.Array:
      lower = [jnp.where(step < start, 1.0, self.factor) for start in starts]
      return math.prod(lower, start=jnp.ones(()))

    return self._warm_up(after, total_steps)


@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
  """Linear warm-up, then half a cosine down to `end` at the last step."""

  end: float = fields.number(0.1, at_least=0, at_most=1)

  def __call__(self, total_steps: int) -> optax.Schedule:
    warmup = self.warmup_steps(total_steps)
    length = max(total_steps - warmup, 1)
    decay = optax.cosine_decay_schedule(1.0, length, self.end)
    return self._warm_up(lambda step: decay(step - warmup), total_steps)


@dataclasses.dataclass(frozen=True)
class WarmupStableDecay(Schedule):
  """Linear warm-up, constant, then linear to `end` over the last fraction."""

  decay: float = fields.number(0.1, at_least=0, at_most=1)
  end: float = fields.number(0.0, at_least=0, at_most=1)

  def __call__(self, total_steps: int) -> optax.Schedule:
    length = max(round(self.decay * total_steps), 1)
    down = optax.linear_schedule(1.0, self.end, length)
    start = total_steps - length
    return self._warm_up(lambda step: down(step - start), total_steps)


@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
  """Linear warm-up, then constant (DeepSeekMoE 145B, section 7.1)."""

  def __call__(self, total_steps: int) -> optax.Schedule:
    flat = lambda step: jnp.ones_like(step, jnp.float32)
    return self._warm_up(flat, total_steps)


SCHEDULES = {
  'constant': Constant,
  'cosine': Cosine,
  'steps': Steps,
  'warmup_stable_decay': WarmupStableDecay,
}
