"""EvoMoE's dense-to-sparse gate: from all experts to one, by temperature."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.core import errors, fields
from moejax.moe import contract, replay
from moejax.moe.routers import any_number, noise


def _exponential(high: float, low: float, done: jax.Array | float) -> jax.Array:
  return jnp.maximum(high * (low / high) ** done, low)


def _linear(high: float, low: float, done: jax.Array | float) -> jax.Array:
  return jnp.maximum(high - done * (high - low), low)


def _constant(high: float, low: float, done: jax.Array | float) -> jax.Array:
  del low, done
  return jnp.asarray(high, jnp.float32)


SCHEDULES = {
  'exponential': _exponential,
  'linear': _linear,
  'constant': _constant,
}


@dataclasses.dataclass(frozen=True)
class DenseToSparse(contract.Router):
  """Gumbel softmax with a falling temperature; experts above a threshold.

  EvoMoE's DTS gate (arXiv 2112.14397, and its released code):

  1. w = softmax((logit + Gumbel noise) / temperature); temperature goes from
     `start` to `end` in `decay_steps`, exponentially or linearly
  2. the experts with w > threshold, and always the one of the largest w, are
     used; from step `hard_from` on only that one
  3. weight = softmax(logit), without noise and temperature, as in the code's
     default, or w with `use_gumbel_gates`; neither is renormalised

  In evaluation the most probable expert alone is used, without noise. The
  paper's first stage, in which one expert is trained and then cloned into E
  with random masks, is a way to initialise and not part of the gate.

  In training the list of assignments has T * E entries, and a step costs that
  of E experts while many are used: see `any_number`. `prob_TE` holds the
  probabilities from which the weights are taken. `extra` has the weights for
  the paper's balance loss (gate_TE), 0 for experts that are not used.

  Attributes:
    threshold: c; 0.001 in the code.
    schedule: of the temperature; `constant` stays at `start`, as in the code
      without a scheduler.
    start: temperature at step 0.
    end: the lowest temperature.
    decay_steps: optimiser steps from start to end.
    hard_from: step from which on a token has one expert; None for never.
    use_gumbel_gates: whether weights are w, noise and temperature included.
  """

  replays: ClassVar[bool] = True

  threshold: float = fields.number(0.001, at_least=0, below=1)
  schedule: str = fields.named(SCHEDULES, 'exponential')
  start: float = fields.number(2.0, above=0, at_most=100)
  end: float = fields.number(0.3, above=0, at_most=100)
  decay_steps: int = fields.number(10_000, at_least=1)
  hard_from: int | None = fields.number(None, at_least=0)
  use_gumbel_gates: bool = False

  def __post_init__(self):
    super().__post_init__()
    if self.end > self.start:
      raise errors.InputError(
        f'end={self.end} must be at most start={self.start}: the temperature '
        'falls'
      )

  @property
  def experts_per_token(self) -> float:
    """The number at a low temperature; at first it may be all experts."""
    return 1

  @property
  def counts_steps(self) -> bool:
    return True

  def temperature(self, steps: jax.Array | float) -> jax.Array:
    """The temperature after so many optimiser steps."""
    schedule = SCHEDULES[self.schedule]
    return schedule(self.start, self.end, steps / self.decay_steps)

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    prob_TE = jax.nn.softmax(inputs.logits_TE, axis=-1)
    noisy_TE = inputs.logits_TE
    if inputs.training:
      noisy_TE = noisy_TE + noise.gumbel(inputs, noisy_TE.shape[1])
    gumbel_TE = jax.nn.softmax(
      noisy_TE / self.temperature(inputs.steps), axis=-1
    )
    if self.use_gumbel_gates:
      prob_TE = gumbel_TE
    if not inputs.training:
      return self.hard(inputs, prob_TE)
    score_TE = inputs.biased(gumbel_TE)
    best_TE = _one_hot(score_TE)
    # Biases may push all scores below the threshold.
    used_TE = (score_TE > self.threshold) | best_TE
    if self.hard_from is not None:
      used_TE = jnp.where(inputs.steps >= self.hard_from, best_TE, used_TE)
    if inputs.replayed is not None:
      used_TE = inputs.replayed.chosen(prob_TE.shape[1])
    gate_TE = jnp.where(used_TE, prob_TE, 0.0)
    return any_number.send(
      inputs, gate_TE, used_TE, prob_TE, {'gate_TE': gate_TE}
    )

  def hard(
    self, inputs: contract.RouterInput, prob_TE: jax.Array
  ) -> contract.Routing:
    """Evaluation: one expert a token."""
    best_TE = _one_hot(inputs.biased(prob_TE))
    if inputs.replayed is not None:
      best_TE = inputs.replayed.chosen(prob_TE.shape[1])
    gate_TE = jnp.where(best_TE, prob_TE, 0.0)
    expert_T1, _ = replay.choice(
      inputs.replayed, jnp.argmax(best_TE, axis=1)[:, None]
    )
    return contract.token_choice(
      inputs,
      expert_T1,
      gate_TE.sum(axis=1, keepdims=True),
      prob_TE,
      {'gate_TE': gate_TE},
    )


def _one_hot(score_TE: jax.Array) -> jax.Array:
  """True at the largest score of each row, the first among equals; [T, E]."""
  best_T = jnp.argmax(score_TE, axis=1)
  return best_T[:, None] == jnp.arange(score_TE.shape[1])
