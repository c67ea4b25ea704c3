"""AdamW, and Muon for matrices, with a schedule; the training step clips."""

import dataclasses
from collections.abc import Hashable
from typing import Any

import jax
import optax

from moejax.core import fields, trees
from moejax.train import matrices as matrices_lib
from moejax.train import parts as parts_lib
from moejax.train import schedule as schedules


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(fields.Checked):
  """AdamW as DeepSeekMoE trains (arXiv 2401.06066, section 4.1.2).

  Attributes:
    peak_lr: the largest learning rate; the schedule multiplies it.
    beta1, beta2, eps: as in AdamW.
    weight_decay: decoupled weight decay, of matrices only: see
      `model.build.Model.decays`.
    clip_norm: largest global norm of the gradient; None means no clipping.
    schedule: learning rate over the run, as a share of `peak_lr`.
    matrices: how matrices are updated: as all else, or by Muon.
    parts: parts of the model with learning rates of their own; see `parts`.
  """

  peak_lr: float = fields.number(1e-3, above=0, at_most=10)
  beta1: float = fields.number(0.9, at_least=0, below=1)
  beta2: float = fields.number(0.95, at_least=0, below=1)
  eps: float = fields.number(1e-8, above=0, at_most=1)
  weight_decay: float = fields.number(0.1, at_least=0, at_most=1000)
  clip_norm: float | None = fields.number(
    1.0, above=0, at_most=10**6, note='none: no clipping'
  )
  schedule: schedules.Schedule = fields.choice(
    schedules.SCHEDULES, schedules.StepSchedule()
  )
  matrices: matrices_lib.AdamW = fields.choice(
    matrices_lib.MATRICES, matrices_lib.AdamW()
  )
  parts: tuple[parts_lib.Part, ...] = fields.keyed(parts_lib.Part)


def learning_rate(opt: OptimizerConfig, total_steps: int) -> optax.Schedule:
  """The learning rate of each step, counted from 0."""
  shape = opt.schedule(total_steps)
  return lambda step: opt.peak_lr * shape(step)


def make(
  opt: OptimizerConfig,
  total_steps: int,
  decays: dict[str, bool],
) -> optax.GradientTransformation:
  """The optimiser. The step clips, because it computes the norm anyway.

  Args:
    opt: the config.
    total_steps: number of steps of the run, for the schedule.
    decays: whether weight decay applies to a weight, by the weight's path; see
      `model.build.Model`.

  Raises:
    InputError: `opt.parts` does not fit the weights.
  """
  rate = learning_rate(opt, total_steps)

  def scaled(factor: float) -> optax.ScalarOrSchedule:
    return rate if factor == 1 else lambda step: factor * rate(step)

  def adamw(factor: float) -> optax.GradientTransformation:
    if not factor:
      return optax.set_to_zero()
    return optax.adamw(
      scaled(factor),
      b1=opt.beta1,
      b2=opt.beta2,
      eps=opt.eps,
      weight_decay=opt.weight_decay,
      mask=lambda weights: trees.map_paths(lambda p, _: decays[p], weights),
    )

  factor_of = parts_lib.factors(opt.parts, decays)
  # Paths of checkpoints have these names.
  name = lambda factor: f'x{factor!r}'
  kind_of = {path: name(factor) for path, factor in factor_of.items()}
  transforms: dict[Hashable, optax.GradientTransformation] = {}
  for factor in sorted({*factor_of.values()}):
    transforms[name(factor)] = adamw(factor)
    own = opt.matrices.transform(scaled(factor), opt.weight_decay)
    if own is None or not factor:
      continue
    transforms[f'matrices_{name(factor)}'] = own
    for path, of_path in factor_of.items():
      if of_path == factor and matrices_lib.is_matrix(path, decays[path]):
        kind_of[path] = f'matrices_{name(factor)}'
  if not opt.parts and len(transforms) == 1:
    return adamw(1.0)
  kinds = lambda weights: trees.map_paths(lambda p, _: kind_of[p], weights)
  return optax.partition(transforms, kinds)


def shardings(opt_shapes: Any, weight_shardings: Any, replicated: Any) -> Any:
  """The sharding of every leaf of the optimiser's state.

  A moment has the sharding of its weight, whose path ends its own; counters
  are replicated.

  Args:
    opt_shapes: the state's arrays or their shapes.
    weight_shardings: the sharding of each weight, as the tree of weights.
    replicated: the sharding of a copy on every device.
  """
  flat = trees.leaves(weight_shardings)

  def one(path: str, leaf: jax.ShapeDtypeStruct) -> Any:
    del leaf
    for weight, sharding in flat.items():
      if path.endswith('/' + weight):
        return sharding
    return replicated

  return trees.map_paths(one, opt_shapes)
