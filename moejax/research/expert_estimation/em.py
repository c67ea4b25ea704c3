"""EM: expectation maximisation of mixtures of experts, many trials at once.

`sums` has the iteration. Here it is repeated until each trial has converged:

* Over-fitted mixtures make EM slow: near the end each iteration repeats a fixed
  share of the last one's move, and the gain is small long before the maximum.
  After `plain` iterations of EM the steps are therefore those of Newton's
  method, with the information that the scores of samples estimate (Meilijson,
  1989, "A fast improvement to the EM algorithm on its own terms"), damped as by
  Levenberg and Marquardt.
* Where the log likelihood is lower after a step, the step is shortened and
  tried again, so that the likelihood never falls. The sums that measure the
  likelihood are also those of the next step: samples are read once for each.
* A trial that has converged costs nothing (`blocks`).
"""

import dataclasses
import functools
import threading
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import fields
from moejax.research.expert_estimation import blocks, sums
from moejax.research.expert_estimation.blocks import Blocks
from moejax.research.expert_estimation.model import Model, Params

# Threads that want one program wait for the one that compiles it.
COMPILING = threading.Lock()
# The damping of a step: after one that kept its promise, by a gain of more than
# GOOD of it, and after one that did not, by less than POOR; and after a loss.
GOOD, POOR = 0.5, 0.1
AFTER_GOOD, AFTER_POOR, AFTER_LOSS = 1 / 3, 2.0, 4.0
LEAST_DAMPING = 1e-4
# Of a step of EM, before a damped one takes its place.
HALVINGS = 3


@dataclasses.dataclass(frozen=True)
class Settings(fields.Checked):
  """How long EM runs, and the compact set that its parameters lie in.

  Attributes:
    iterations: the most that are taken; 1,000 in arXiv 2505.10860.
    tolerance: EM has converged when three steps together, or one of plain EM,
      add less to the log likelihood of the whole sample. arXiv 2505.10860 asks
      for less than 1e-6 by one step of plain EM, thousands of which can follow.
    tries: how often a step is shortened before EM gives up.
    least_variance: lower bound of all variances. The likelihood has no maximum
      without one.
    largest_gate: bound on the absolute weights of the gate.
    plain: iterations of plain EM before Newton's steps.
    accelerated: whether there are Newton's steps.
  """

  iterations: int = fields.number(1000, at_least=1)
  tolerance: float = fields.number(1e-4, above=0, at_most=1)
  tries: int = fields.number(24, at_least=0, at_most=50)
  least_variance: float = fields.number(0.01, above=0, at_most=100)
  largest_gate: float = fields.number(30.0, above=0, at_most=1000)
  plain: int = fields.number(10, at_least=0)
  accelerated: bool = True

  @property
  def patience(self) -> int:
    """Steps whose gain is compared with the tolerance."""
    return 3 if self.accelerated else 1


@flax.struct.dataclass
class Fits:
  """What an estimator found, for each of T trials.

  Attributes:
    params: parameters, trials in front.
    objective_T: mean log likelihood of a sample, or minus the mean square of a
      regression.
    gradient_T: Euclidean norm of the gradient of the objective.
    iterations_T: iterations taken.
    converged_T: whether the estimator stopped by its own criterion.
    restart_T: which start the best fit came from.
  """

  params: Params
  objective_T: Any
  gradient_T: Any
  iterations_T: Any
  converged_T: Any
  restart_T: Any


@flax.struct.dataclass
class State:
  """Where T trials are; V parameters are flat.

  Attributes:
    point_TV: the parameters that come next.
    best_TV: the best parameters so far.
    value_T: their mean log likelihood.
    sums_T: their sums of all samples.
    plain_TV: where EM leads from them.
    curvature_TV: see `sums.Iteration`.
    damping_T: of the step from them.
    promised_T: the gain that this step promises; NaN of a step of EM.
    recent_TW: gains of the last steps.
    tries_T: how often the step has been shortened.
    iterations_T: iterations taken.
    active_T: whether the trial goes on.
    converged_T: whether it stopped by its own criterion.
  """

  point_TV: Any
  best_TV: Any
  value_T: Any
  sums_T: sums.Sums
  plain_TV: Any
  curvature_TV: Any
  damping_T: Any
  promised_T: Any
  recent_TW: Any
  tries_T: Any
  iterations_T: Any
  active_T: Any
  converged_T: Any


def fit(
  model: Model,
  settings: Settings,
  start: Params,
  x_TND: np.ndarray,
  y_TN: np.ndarray,
  weight_TN: np.ndarray,
  room: tuple[int, int] = (0, 0),
) -> Fits:
  """Fits all trials at once, each until it has converged.

  Args:
    model: a density.
    settings: when to stop.
    start: parameters, trials in front.
    x_TND: inputs.
    y_TN: outputs.
    weight_TN: weights of samples; those of a trial are of sum 1.
    room: numbers of trials and of samples that the program is compiled for, if
      there are fewer; calls that agree in it share one program.
  """
  trials, num, _ = x_TND.shape
  room = (max(room[0], trials), max(room[1], num))
  samples = blocks.of(x_TND, y_TN, weight_TN, room)
  missing = room[0] - trials
  start = jax.tree.map(
    lambda leaf: np.concatenate([leaf, np.repeat(leaf[:1], missing, axis=0)]),
    start,
  )
  active_T = np.arange(room[0]) < trials
  with COMPILING:
    run = _program(model, settings, blocks.lanes(), _shapes((start, samples)))
  fits = run(start, active_T, samples)
  return jax.tree.map(lambda leaf: np.asarray(leaf)[:trials], fits)


def _shapes(tree: Any) -> Any:
  """A tree of arrays as a tree of their shapes, which can be compared."""
  leaves, form = jax.tree.flatten(tree)
  return form, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)


@functools.lru_cache(maxsize=64)
def _program(
  model: Model, settings: Settings, lanes: int, shapes: Any
) -> Callable[..., Fits]:
  """The compiled program of such shapes."""
  form, leaves = shapes
  start, samples = jax.tree.unflatten(
    form, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves]
  )
  active_T = jax.ShapeDtypeStruct(start.log_variance_E.shape[:1], bool)
  run = functools.partial(_fit, model, settings, lanes)
  return jax.jit(run).lower(start, active_T, samples).compile()


def _fit(
  model: Model,
  settings: Settings,
  lanes: int,
  start: Params,
  active_T: jax.Array,
  samples: Blocks,
) -> Fits:
  state = begin(model, settings, start, active_T)
  state = jax.lax.while_loop(
    lambda state: jnp.any(state.active_T),
    lambda state: iterate(model, settings, lanes, state, samples),
    state,
  )
  return Fits(
    params=jax.vmap(sums.rebuilder(model))(state.best_TV),
    objective_T=state.value_T,
    gradient_T=jnp.linalg.norm(state.sums_T.gradient_V, axis=1),
    iterations_T=state.iterations_T,
    converged_T=state.converged_T,
    restart_T=jnp.zeros_like(state.iterations_T),
  )


def begin(
  model: Model, settings: Settings, start: Params, active_T: jax.Array
) -> State:
  """The state before the first iteration."""
  point_TV = jax.vmap(sums.flat)(start)
  trials = len(point_TV)
  zeros = lambda shape: jnp.zeros((trials, *shape))
  # Of one row that has no weight.
  empty = jax.eval_shape(
    functools.partial(sums.of, model),
    model.zeros(),
    *(np.zeros(shape) for shape in ((1, model.width), (1,), (1,))),
  )
  return State(
    point_TV=point_TV,
    best_TV=point_TV,
    value_T=jnp.full(trials, -jnp.inf),
    sums_T=jax.tree.map(lambda leaf: zeros(leaf.shape) + jnp.nan, empty),
    plain_TV=point_TV,
    curvature_TV=jnp.zeros_like(point_TV),
    damping_T=jnp.ones(trials),
    promised_T=jnp.full(trials, jnp.nan),
    recent_TW=jnp.full((trials, settings.patience), jnp.inf),
    tries_T=jnp.zeros(trials, jnp.int32),
    iterations_T=jnp.zeros(trials, jnp.int32),
    active_T=active_T,
    converged_T=jnp.zeros(trials, bool),
  )


def iterate(
  model: Model, settings: Settings, lanes: int, state: State, samples: Blocks
) -> State:
  """One iteration of all trials that go on."""
  totals = blocks.totals(model, lanes, state.point_TV, state.active_T, samples)
  improve = lambda point_V, total: sums.improved(
    sums.rebuilder(model)(point_V),
    total,
    settings.least_variance,
    settings.largest_gate,
  )
  iteration = jax.vmap(improve)(state.point_TV, totals)
  judge = functools.partial(
    _judged, settings, samples.num, bounds(model, settings)
  )
  new = jax.vmap(judge)(state, totals, iteration)
  keep = lambda new, old: jnp.where(
    state.active_T.reshape(-1, *[1] * (old.ndim - 1)), new, old
  )
  return jax.tree.map(keep, new, state)


def bounds(model: Model, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
  """The least and the largest value of each parameter, flat."""
  gate, least = settings.largest_gate, np.log(settings.least_variance)
  full = lambda tree, value: jax.tree.map(
    lambda leaf: np.full(leaf.shape, value), tree
  )
  zeros = model.zeros()
  low = dataclasses.replace(
    full(zeros, -np.inf),
    gate=full(zeros.gate, -gate),
    log_variance_E=full(zeros.log_variance_E, least),
    shared_log_variance_S=full(zeros.shared_log_variance_S, least),
  )
  high = dataclasses.replace(full(zeros, np.inf), gate=full(zeros.gate, gate))
  vector = lambda tree: np.concatenate([
    np.ravel(leaf) for leaf in jax.tree.leaves(tree)
  ])
  return vector(low), vector(high)


def _judged(
  settings: Settings,
  num: jax.Array,
  bounds: tuple[np.ndarray, np.ndarray],
  old: State,
  total: sums.Sums,
  iteration: sums.Iteration,
) -> State:
  """The state of one trial after an iteration began at `old.point_TV`.

  Args:
    settings: when to stop.
    num: samples.
    bounds: the least and the largest value of each parameter.
    old: the state before, of this trial alone.
    total: the sums at the point.
    iteration: of EM, from the point.
  """
  # NaN is a loss too.
  finite = jnp.isfinite(total.value) & jnp.all(jnp.isfinite(iteration.plain_V))
  better = finite & (total.value >= old.value_T)
  first = ~jnp.isfinite(old.value_T)
  pick = lambda new, other: jax.tree.map(
    lambda a, b: jnp.where(better, a, b), new, other
  )
  gain = jnp.where(first, jnp.inf, total.value - old.value_T)
  new = dataclasses.replace(
    old,
    best_TV=pick(old.point_TV, old.best_TV),
    value_T=pick(total.value, old.value_T),
    sums_T=pick(total, old.sums_T),
    plain_TV=pick(iteration.plain_V, old.plain_TV),
    curvature_TV=pick(iteration.curvature_V, old.curvature_TV),
    recent_TW=pick(jnp.append(old.recent_TW, gain)[1:], old.recent_TW),
    tries_T=jnp.where(better, 0, old.tries_T + 1),
    iterations_T=old.iterations_T + 1,
  )
  # Comparisons with the NaN that EM's steps promise are False.
  kept = gain / old.promised_T
  factor = jnp.where(kept > GOOD, AFTER_GOOD, 1.0)
  factor = jnp.where(kept < POOR, AFTER_POOR, factor)
  loss = jnp.where(jnp.isnan(old.promised_T), 1.0, AFTER_LOSS)
  damping = old.damping_T * jnp.where(better, factor, loss)
  new = dataclasses.replace(new, damping_T=jnp.maximum(damping, LEAST_DAMPING))
  point_V, promised = _next(settings, bounds, new)
  ended = new.tries_T > settings.tries
  converged = (num * new.recent_TW.sum() < settings.tolerance) | (
    ended & jnp.isfinite(new.value_T)
  )
  return dataclasses.replace(
    new,
    point_TV=point_V,
    promised_T=promised,
    active_T=~converged & ~ended & (new.iterations_T < settings.iterations),
    converged_T=converged,
  )


def _next(
  settings: Settings, bounds: tuple[np.ndarray, np.ndarray], state: State
) -> tuple[jax.Array, jax.Array]:
  """Where one trial goes from its best point, and the gain promised there."""
  low_V, high_V = bounds
  best_V, gradient_V = state.best_TV, state.sums_T.gradient_V
  shorter_V = best_V + 0.5**state.tries_T * (state.plain_TV - best_V)
  if not settings.accelerated:
    return shorter_V, jnp.full((), jnp.nan)
  free_V = ~((best_V <= low_V) & (gradient_V < 0)) & ~(
    (best_V >= high_V) & (gradient_V > 0)
  )
  step_V, promised = sums.scored(
    state.sums_T, state.curvature_TV, free_V, state.damping_T
  )
  far_V = jnp.clip(best_V + step_V, low_V, high_V)
  newton = state.iterations_T > settings.plain
  # Nor does halving help where a step of EM is far too long in some parameter.
  newton |= state.tries_T > HALVINGS
  newton &= jnp.all(jnp.isfinite(far_V))
  return (
    jnp.where(newton, far_V, shorter_V),
    jnp.where(newton, promised, jnp.nan),
  )


def log_likelihood(
  model: Model,
  params: Params,
  x_ND: jax.Array,
  y_N: jax.Array,
  weight_N: jax.Array,
) -> jax.Array:
  """The weighted mean of log p(y | x)."""
  return weight_N @ model.log_density(params, x_ND, y_N)
