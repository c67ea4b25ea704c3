"""Steps that are skipped because their loss jumps: a choice, off by default.

A rule is asked within the jitted step. What it has seen is part of the State,
so that a resumed run decides as one that never stopped. `Never` has seen
nothing, and neither program nor checkpoints know of it.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from moejax.core import fields


@dataclasses.dataclass(frozen=True)
class Never(fields.Checked):
  """Every step with a finite loss and gradient is taken."""

  def init(self) -> Any:
    """What it has seen at the start: arrays, or nothing."""
    return ()

  def judge(
    self, seen: Any, loss: jax.Array, finite: jax.Array
  ) -> tuple[jax.Array | None, Any]:
    """Whether to skip (None: it never does), and what it has seen now."""
    del loss, finite
    return None, seen

  def metrics(self, seen: Any) -> dict[str, jax.Array]:
    """What to report of a step."""
    del seen
    return {}


@dataclasses.dataclass(frozen=True)
class Deviations(Never):
  """Skips a step whose loss is far above those of the steps before it.

  Skipped if loss > mean + k * deviation, both exponential moving ones over the
  losses of the steps that were taken:

    w         = max(1 - decay, 1 / (1 + steps seen))
    mean     += w * (loss - mean)
    variance  = (1 - w) * (variance + w * (loss - mean before)^2)

  A skipped step leaves weights, optimiser and router memory as they were, and
  counts in `skipped`, so the learning rate waits too; it does not count in
  `bad_steps`.

  Attributes:
    k: how many standard deviations are too many.
    decay: of the moving mean and variance.
    warmup: steps that are seen before any is skipped.
    in_a_row: after so many skipped in a row the next is taken whatever its
      loss: then it is no spike, but where the loss is now.
  """

  k: float = fields.number(6.0, above=0, at_most=1000)
  decay: float = fields.number(0.98, above=0, below=1)
  warmup: int = fields.number(50, at_least=2)
  in_a_row: int = fields.number(3, at_least=1)

  def init(self) -> dict[str, jax.Array]:
    none, zero = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32)
    return {
      'count': none,
      'in_a_row': none,
      'mean': zero,
      'skipped': none,
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


NEVER = Never()
SPIKES: dict[str, type] = {'never': Never, 'deviations': Deviations}
