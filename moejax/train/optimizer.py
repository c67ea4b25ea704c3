"""AdamW with clipping, decay masks and a schedule."""

import dataclasses
from typing import Any

import jax
import optax

from moejax.core import config, errors, trees
from moejax.train import schedule


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """AdamW as DeepSeekMoE trains (arXiv 2401.06066, section 4.1.2).

  Attributes:
    peak_lr: the largest learning rate; the schedule multiplies it.
    beta1, beta2, eps: AdamW's.
    weight_decay: decoupled; of matrices only, never of norms' scales or biases.
    clip_norm: largest global norm of the gradient; None means no clipping.
    schedule: learning rate over the run.
  """

  peak_lr: float = 1e-3
  beta1: float = 0.9
  beta2: float = 0.95
  eps: float = 1e-8
  weight_decay: float = 0.1
  clip_norm: float | None = 1.0
  schedule: object = config.choice(schedule.SCHEDULES, schedule.Steps())

  def __post_init__(self):
    for name in ('peak_lr', 'eps'):
      if getattr(self, name) <= 0:
        raise errors.InputError(f'opt.{name}={getattr(self, name)} must be > 0')
    for name in ('beta1', 'beta2'):
      if not 0 <= getattr(self, name) < 1:
        raise errors.InputError(
          f'opt.{name}={getattr(self, name)} must be at least 0 and below 1'
        )
    if self.weight_decay < 0:
      raise errors.InputError(
        f'opt.weight_decay={self.weight_decay} must be 0 or more'
      )
    if self.clip_norm is not None and self.clip_norm <= 0:
      raise errors.InputError(
        f'opt.clip_norm={self.clip_norm} must be > 0, or none for no clipping'
      )


def learning_rate(opt: OptimizerConfig, total_steps: int) -> optax.Schedule:
  """The learning rate of each step, counted from 0."""
  shape = opt.schedule(total_steps)
  return lambda step: opt.peak_lr * shape(step)


def make(
  opt: OptimizerConfig,
  total_steps: int,
  axes: dict[str, tuple[str, ...]],
) -> optax.GradientTransformation:
  """The optimiser for weights whose dimensions have these names.

  Clipping is left to the step, which knows the norm already.
  """

  def decays(weights: Any) -> Any:
    return trees.map_paths(
      lambda path, _: is_matrix(axes[path]) and not is_bias(path), weights
    )

  return optax.adamw(
    learning_rate(opt, total_steps),
    b1=opt.beta1,
    b2=opt.beta2,
    eps=opt.eps,
    weight_decay=opt.weight_decay,
    mask=decays,
  )


def is_bias(path: str) -> bool:
  """Whether a weight is a bias: experts' have a dimension for the expert."""
  return path.rsplit('/', 1)[-1].startswith('b_')


def is_matrix(axes: tuple[str, ...]) -> bool:
  """Whether a weight has two trained dimensions or more in each layer."""
  return len([a for a in axes if a not in ('layers', 'fixed')]) > 1


def shardings(opt_shapes: Any, weight_shardings: Any, replicated: Any) -> Any:
  """Each moment lies as its weight does; counters are copied everywhere."""
  flat = trees.leaves(weight_shardings)

  def one(path: str, leaf: jax.ShapeDtypeStruct) -> Any:
    del leaf
    for weight, sharding in flat.items():
      if path.endswith('/' + weight):
        return sharding
    return replicated

  return trees.map_paths(one, opt_shapes)
