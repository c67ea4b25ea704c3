"""Rules to skip steps whose loss jumps; off by default.

A rule is called within the jitted step. Its memory of earlier losses is part of
the State, so that a resumed run decides as a run that never stopped. The
default rule, `NeverSkip`, has no memory and changes neither the program nor
checkpoints.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from moejax.core import fields


@dataclasses.dataclass(frozen=True)
class NeverSkip(fields.Checked):
  """Every step with a finite loss and gradient is taken."""

  def init(self) -> Any:
    """The memory before the first step: arrays, or nothing."""
    return ()

  def judge(
    self, seen: Any, loss: jax.Array, finite: jax.Array
  ) -> tuple[jax.Array | None, Any]:
    """Decides on one step.

    Args:
      seen: the memory.
      loss: the loss of the step, float32.
      finite: bool, whether loss and gradient of the step are finite.

    Returns:
      Whether to skip the step (bool; None stands for never), and the new
      memory.
    """
    del loss, finite
    return None, seen

  def metrics(self, seen: Any) -> dict[str, jax.Array]:
    """Metrics of the rule, by name."""
    del seen
    return {}


@dataclasses.dataclass(frozen=True)
class Deviations(NeverSkip):
  """Skips a step whose loss is far above those of the steps before it.

  A step is skipped if loss > mean + k * sqrt(variance). Mean and variance are
  exponential moving ones over the losses of the n steps that were not skipped:

    w         = max(1 - decay, 1 / (1 + n))
    variance  = (1 - w) * (variance + w * (loss - mean)^2)
    mean     += w * (loss - mean)

  A skipped step leaves weights, optimiser and router state as they were. It
  counts in `State.skipped`, so the learning rate does not advance, but not in
  `State.bad_steps`.

  Attributes:
    k: number of standard deviations above the mean at which steps are skipped.
    decay: decay of the moving mean and variance per step.
    warmup: number of steps before any step may be skipped.
    in_a_row: number of steps skipped in a row after which the next step is not
      skipped, because the loss seems to have changed for good.
  """

  k: float = fields.number(6.0, above=0, at_most=1000)
  decay: float = fields.number(0.98, above=0, below=1)
  warmup: int = fields.number(50, at_least=2)
  in_a_row: int = fields.number(3, at_least=1)

  def init(self) -> dict[str, jax.Array]:
    count, zero = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32)
    return {
      'count': count,
      'in_a_row': count,
      'mean': zero,
      'skipped': count,
      'variance': zero,
    }

  def judge(
    self, seen: Any, loss: jax.Array, finite: jax.Array
  ) -> tuple[jax.Array, Any]:
    high = loss > seen['mean'] + self.k * jnp.sqrt(seen['variance'])
    skip = finite & high & (seen['count'] >= self.warmup)
    skip &= seen['in_a_row'] < self.in_a_row
    learn = finite & ~skip
    weight = jnp.maximum(1 - self.decay, 1 / (1.0 + seen['count']))
    deviation = loss - seen['mean']
    variance = (1 - weight) * (seen['variance'] + weight * deviation**2)
    mean = seen['mean'] + weight * deviation
    row = jnp.where(skip, seen['in_a_row'] + 1, seen['in_a_row'] * ~finite)
    return skip, {
      'count': seen['count'] + learn,
      'in_a_row': row,
      'mean': jnp.where(learn, mean, seen['mean']),
      'skipped': seen['skipped'] + skip,
      'variance': jnp.where(learn, variance, seen['variance']),
    }

  def metrics(self, seen: Any) -> dict[str, jax.Array]:
    limit = seen['mean'] + self.k * jnp.sqrt(seen['variance'])
    return {
      'spikes': seen['skipped'],
      'spikes_in_a_row': seen['in_a_row'],
      'spike_limit': limit,
    }


NEVER = NeverSkip()
# name in a config -> the class
SPIKES: dict[str, type] = {'never': NeverSkip, 'deviations': Deviations}
