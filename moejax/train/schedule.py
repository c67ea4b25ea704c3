"""Learning rates over a run, by name; each multiplies the peak."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax

from moejax.core import config


def _warm_up(after: optax.Schedule, warmup: int) -> optax.Schedule:
  """Linear from 1 / warmup to 1 in `warmup` steps, then `after`."""
  ramp = lambda step: (step + 1) / max(warmup, 1)
  return lambda step: jnp.where(step < warmup, ramp(step), after(step))


@dataclasses.dataclass(frozen=True)
class Steps(config.Checked):
  """Linear warm-up, then times `factor` at each milestone.

  DeepSeekMoE (arXiv 2401.06066, section 4.1.2): 2,000 steps of warm-up, times
  0.316 at 80% and again at 90% of the training steps.
  """

  warmup: int = config.number(2000, at_least=0)
  factor: float = config.number(0.316, at_least=0, at_most=1)
  milestones: tuple[float, ...] = config.number(
    (0.8, 0.9), at_least=0, at_most=1
  )

  def __call__(self, total_steps: int) -> optax.Schedule:
    starts = [round(m * total_steps) for m in self.milestones]

    def after(step: jax.Array) -> jax.Array:
      lower = [jnp.where(step < start, 1.0, self.factor) for start in starts]
      return math.prod(lower, start=jnp.ones(()))

    return _warm_up(after, self.warmup)


@dataclasses.dataclass(frozen=True)
class Cosine(config.Checked):
  """Linear warm-up, then half a cosine down to `end` at the last step."""

  warmup: int = config.number(2000, at_least=0)
  end: float = config.number(0.1, at_least=0, at_most=1)

  def __call__(self, total_steps: int) -> optax.Schedule:
    length = max(total_steps - self.warmup, 1)
    decay = optax.cosine_decay_schedule(1.0, length, self.end)
    return _warm_up(lambda step: decay(step - self.warmup), self.warmup)


@dataclasses.dataclass(frozen=True)
class WarmupStableDecay(config.Checked):
  """Linear warm-up, constant, then linear to `end` over the last fraction."""

  warmup: int = config.number(2000, at_least=0)
  decay: float = config.number(0.1, at_least=0, at_most=1)
  end: float = config.number(0.0, at_least=0, at_most=1)

  def __call__(self, total_steps: int) -> optax.Schedule:
    length = max(round(self.decay * total_steps), 1)
    down = optax.linear_schedule(1.0, self.end, length)
    start = total_steps - length
    return _warm_up(lambda step: down(step - start), self.warmup)


@dataclasses.dataclass(frozen=True)
class Constant(config.Checked):
  """Linear warm-up, then constant (DeepSeekMoE 145B, section 7.1)."""

  warmup: int = config.number(2000, at_least=0)

  def __call__(self, total_steps: int) -> optax.Schedule:
    del total_steps
    return _warm_up(lambda step: jnp.ones_like(step, jnp.float32), self.warmup)


SCHEDULES = {
  'constant': Constant,
  'cosine': Cosine,
  'steps': Steps,
  'warmup_stable_decay': WarmupStableDecay,
}
