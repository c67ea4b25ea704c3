"""Experts' matrices lose columns while they train; off by default.

The structured sparsity of MC-SMoE (arXiv 2310.01334, section 3.2) and LoSparse
(arXiv 2306.11222). After each optimiser step the columns of the routed experts'
matrices that matter least are set to zero, so that a share of all their numbers
stays. The share falls by a cubic schedule:

  r(t) = r_f + (r_i - r_f) (1 - (t - t_i) / (T - t_i - t_f))^3

for t_i < t <= T - t_f; it is r_i before and r_f after, and T is `train.steps`.
A column is all that leads to one output of a matrix of one expert. Its score is
the mean of |s dL/ds| over its numbers s, as a running mean over steps, and one
threshold holds for all matrices of all layers. The numbers of a column that is
zero have no sensitivity, so its score only falls.

The running means are part of the State, so that a resumed run prunes as a run
that never stopped. `compress/sparsity.py` is the same in NumPy, with more
choices.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from moejax.core import errors, fields, trees
from moejax.model.build import Model
from moejax.model.config import ModelConfig
from moejax.parallel import rules

# Where the routed experts are, and the axis of a matrix [N, E, I, ..., O] with
# layers N and experts E that a column runs along.
ROUTED, INPUT = 'moe/ffn/routed/', 2


@dataclasses.dataclass(frozen=True)
class Dense(fields.Checked):
  """No column is set to zero."""

  def check(self, steps: int, model: ModelConfig) -> None:
    """Raises InputError if the rule does not fit a run.

    Args:
      steps: `train.steps`.
      model: config of the model.
    """

  def init(self, shapes: Any) -> Any:
    """The memory before the first step: arrays, or nothing."""
    del shapes
    return ()

  def axes(self, axes: dict[str, tuple[str, ...]]) -> Any:
    """Names of the dimensions of each array of the memory."""
    del axes
    return {}

  def prune(
    self, state: Any, steps: int, gradient: Any, new: Any
  ) -> tuple[Any, Any, dict[str, jax.Array]]:
    """Sets columns to zero after an optimiser step.

    Args:
      state: the State before the step.
      steps: T.
      gradient: of the loss by its weights, clipped.
      new: the weights that the optimiser returned.

    Returns:
      The weights, the new memory, and metrics by name.
    """
    del steps, gradient
    return new, state.sparsity, {}


@dataclasses.dataclass(frozen=True)
class Columns(Dense):
  """Columns are set to zero by the cubic schedule; the defaults are MC-SMoE's.

  Attributes:
    final: r_f, share of the numbers that stays in the end.
    initial: r_i, the share at the start.
    initial_steps: t_i, steps at the first share.
    final_steps: t_f, steps at the last share.
    window_steps: steps whose sensitivities are averaged before the running mean
      is renewed.
    beta1: decay of the running mean.
  """

  final: float = fields.number(0.1, at_least=0, at_most=1)
  initial: float = fields.number(1.0, above=0, at_most=1)
  initial_steps: int = fields.number(400, at_least=0)
  final_steps: int = fields.number(1600, at_least=0)
  window_steps: int = fields.number(1, at_least=1)
  beta1: float = fields.number(0.85, at_least=0, below=1)

  def check(self, steps: int, model: ModelConfig) -> None:
    if not model.num_moe:
      raise errors.InputError(
        'train.sparsity prunes the matrices of routed experts, and the model '
        'has none: set train.sparsity.name=none'
      )
    if model.moe.experts_by_layer:
      raise errors.InputError(
        'train.sparsity counts the numbers of all places for experts, and with '
        'model.moe.experts_by_layer some have no expert: keep equally many '
        'experts in every layer'
      )
    if steps <= self.initial_steps + self.final_steps:
      raise errors.InputError(
        f'train.sparsity.initial_steps={self.initial_steps} and '
        f'train.sparsity.final_steps={self.final_steps} leave nothing of '
        f'train.steps={steps}: lower them, or train longer'
      )
    if self.final > self.initial:
      raise errors.InputError(
        f'train.sparsity.final={self.final} is more than '
        f'train.sparsity.initial={self.initial}: the share cannot grow'
      )

  def init(self, shapes: Any) -> dict[str, Any]:
    zero = lambda x: jnp.zeros(_without(x.shape), jnp.float32)
    by_name = {name: zero(x) for name, x in _matrices(shapes).items()}
    copy = jax.tree.map(jnp.copy, by_name)
    filled = jnp.zeros((), jnp.int32)
    return {'filled': filled, 'mean': by_name, 'window': copy}

  def axes(self, axes: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    by_name = {
      path.removeprefix(ROUTED): _without(names)
      for path, names in axes.items()
      if path.startswith(f'{ROUTED}w_')
    }
    found: dict[str, Any] = {'filled': ()}
    for kind in ('mean', 'window'):
      found |= {f'{kind}/{name}': names for name, names in by_name.items()}
    return found

  def share(self, step: jax.Array, steps: int) -> jax.Array:
    """r(step) of a run of `steps`, float32."""
    falling = steps - self.initial_steps - self.final_steps
    passed = (step - self.initial_steps) / falling
    left = 1 - jnp.clip(passed, 0, 1)
    return self.final + (self.initial - self.final) * left**3

  def prune(
    self, state: Any, steps: int, gradient: Any, new: Any
  ) -> tuple[Any, Any, dict[str, jax.Array]]:
    memory = state.sparsity
    old, gradient = _matrices(state.weights), _matrices(gradient)
    filled = memory['filled'] + 1
    full = filled >= self.window_steps
    mean, window = {}, {}
    for name, s in old.items():
      now = jnp.mean(jnp.abs(s * gradient[name]), axis=INPUT)
      seen = memory['window'][name]
      seen = seen + (now - seen) / filled
      before = memory['mean'][name]
      after = self.beta1 * before + (1 - self.beta1) * seen
      mean[name] = jnp.where(full, after, before)
      window[name] = jnp.where(full, 0, seen)
    lengths = {name: s.shape[INPUT] for name, s in old.items()}
    # As for the learning rate, a step that was skipped does not count.
    share = self.share(state.step - state.skipped + 1, steps)
    stays = kept(mean, lengths, share)
    pruned = {
      name: jnp.where(jnp.expand_dims(stays[name], INPUT), s, 0)
      for name, s in _matrices(new).items()
    }
    total = sum(s.size for s in old.values())
    left = sum(
      jnp.mean(stays[name]) * (s.size / total) for name, s in old.items()
    )
    memory = {
      'filled': jnp.where(full, 0, filled),
      'mean': mean,
      'window': window,
    }
    return _with_matrices(new, pruned), memory, {'kept_share': left}


NONE = Dense()
# name in a config -> the class
SPARSITIES: dict[str, type] = {'none': Dense, 'columns': Columns}


def kept(
  scores: dict[str, jax.Array], lengths: dict[str, int], share: jax.Array
) -> dict[str, jax.Array]:
  """The columns of all matrices that stay.

  Columns stay from the best on until they have the share of all numbers. The
  column that crosses the share stays, and so do those of the same score.

  Args:
    scores: by matrix, a score of each column.
    lengths: by matrix, the numbers of a column.
    share: of the numbers, in [0, 1].

  Returns:
    By matrix, bools of the shape of its scores.
  """
  unit = math.gcd(*lengths.values())
  score_U = jnp.concatenate([x.reshape(-1) for x in scores.values()])
  length_U = jnp.concatenate([
    jnp.full(x.size, lengths[name] // unit, jnp.int32)
    for name, x in scores.items()
  ])
  order_U = jnp.argsort(-score_U)
  passed_U = jnp.cumsum(length_U[order_U])
  total = passed_U[-1].astype(jnp.float32)
  # A product such as 0.1 * 30 is a little above 3, and is no fourth number.
  wanted = jnp.ceil(share * total * (1 - 1e-6))
  wanted = jnp.where(share < 1, wanted, total).astype(jnp.int32)
  crossing = jnp.searchsorted(passed_U, jnp.maximum(wanted, 1))
  last = jnp.minimum(crossing, len(order_U) - 1)
  threshold = jnp.where(wanted > 0, score_U[order_U][last], jnp.inf)
  return {name: x >= threshold for name, x in scores.items()}


def shardings(rule: Dense, model: Model) -> Any:
  """The sharding of every array of a rule's memory."""
  memory = jax.eval_shape(lambda: rule.init(model.shapes))
  return rules.shardings(rule.axes(model.axes), memory, model.mesh)


def _without(shape: tuple[Any, ...]) -> tuple[Any, ...]:
  """A shape, or names of dimensions, without that along a column."""
  return (*shape[:INPUT], *shape[INPUT + 1 :])


def _matrices(weights: Any) -> dict[str, Any]:
  """The routed experts' matrices, by name."""
  return {
    path.removeprefix(ROUTED): x
    for path, x in trees.leaves(weights).items()
    if path.startswith(f'{ROUTED}w_')
  }


def _with_matrices(weights: Any, matrices: dict[str, Any]) -> Any:
  """The weights with other matrices of the routed experts."""
  return trees.map_paths(
    lambda path, x: (
      matrices.get(path.removeprefix(ROUTED), x)
      if path.startswith(ROUTED)
      else x
    ),
    weights,
  )
