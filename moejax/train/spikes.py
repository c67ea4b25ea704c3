"""Steps that are skipped because their loss jumps: a choice, off by default.

A rule is called within the jitted step. What it remembers of losses is part of
the State, so that a resumed run decides as one that never stopped. `NeverSkip`
remembers nothing and leaves no trace in the program or in checkpoints.
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
    """Whether to skip the step (None: never), and the new memory."""
    del loss, finite
    return None, seen

  def metrics(self, seen: Any) -> dict[str, jax.Array]:
    """Metrics of the rule, by name."""
    del seen
    return {}


@dataclasses.dataclass(frozen=True)
class Deviations(NeverSkip):
  """Skips a step whose loss is far above those of the steps before it.

  Skipped if loss > mean + k * deviation, both exponential moving ones over the
  losses of the steps that were taken:

    w         = max(1 - decay, 1 / (1 + steps seen))
    mean     += w * (loss - mean)
    variance  = (1 - w) * (variance + w * (loss - mean before)^2)

  A skipped step leaves weights, optimiser and router state as they were. It
  counts in `skipped`, so the learning rate does not advance, but not in
  `bad_steps`.

  Attributes:
    k: how many standard deviations are too many.
    decay: of the moving mean and variance.
    warmup: number of steps before any step may be skipped.
    in_a_row: number of steps skipped in a row after which the next is taken
      whatever its loss, because the loss has moved for good.
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
    off = loss - seen['mean']
    variance = (1 - weight) * (seen['variance'] + weight * off**2)
    row = jnp.where(skip, seen['in_a_row'] + 1, seen['in_a_row'] * ~finite)
    return skip, {
      'count': seen['count'] + learn,
      'in_a_row': row,
      'mean': jnp.where(learn, seen['mean'] + weight * off, seen['mean']),
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
