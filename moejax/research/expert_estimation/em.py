"""EM: expectation maximisation of mixtures of experts, many trials at once.

One iteration for one trial:

1. E: responsibilities r of all atoms at the present parameters
2. M, shared weights: omega is proportional to the sums of r
3. M, experts: one Gauss-Newton step of sum r (y - h)^2 for each atom. For
   linear and input-free experts it is weighted least squares: the maximum.
4. M, variances: the weighted mean of (y - h)^2, or `least_variance`
5. M, gate: one Fisher scoring step of sum r log gate; Newton's step for softmax
   (Chamroukhi et al., 2009)

Steps 3 and 5 are halved until the objective does not fall, or left out, so that
the likelihood never decreases (generalised EM).

Over-fitted mixtures make EM slow: near the end each iteration repeats a fixed
share of the last one's move. SQUAREM (Varadhan and Roland, 2008, scheme S3)
extrapolates two iterations and takes a third from there; where that would lower
the likelihood, the second one counts.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.flatten_util
import jax.numpy as jnp

from moejax.core import fields
from moejax.research.expert_estimation.experts import Expert
from moejax.research.expert_estimation.model import Model, Params

# Of a matrix that is solved for, relative to its mean diagonal: directions in
# which the likelihood is constant, as the scale of a ReLU, keep their values.
RIDGE = 1e-10
LEAST_MASS = 1e-30


@dataclasses.dataclass(frozen=True)
class Settings(fields.Checked):
  """How long EM runs, and the compact set that its parameters lie in.

  Attributes:
    iterations: the most that are taken; 1,000 in arXiv 2505.10860.
    tolerance: EM has converged when an iteration, or three with SQUAREM, adds
      less to the log likelihood of the whole sample; 1e-6 in arXiv 2505.10860.
    halvings: of a step before it is left out.
    least_variance: lower bound of all variances. The likelihood has no maximum
      without one.
    largest_gate: bound on the absolute weights of the gate.
    accelerated: whether iterations are extrapolated by SQUAREM.
  """

  iterations: int = fields.number(1000, at_least=1)
  tolerance: float = fields.number(1e-6, above=0, at_most=1)
  halvings: int = fields.number(8, at_least=0, at_most=50)
  least_variance: float = fields.number(0.01, above=0, at_most=100)
  largest_gate: float = fields.number(30.0, above=0, at_most=1000)
  accelerated: bool = True


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


@functools.partial(jax.jit, static_argnames=('model', 'settings'))
def fit(
  model: Model,
  settings: Settings,
  start: Params,
  x_TND: jax.Array,
  y_TN: jax.Array,
  weight_TN: jax.Array,
) -> Fits:
  """Fits all trials at once, each until it has converged.

  Args:
    model: a density.
    settings: when to stop.
    start: parameters, trials in front.
    x_TND: inputs.
    y_TN: outputs.
    weight_TN: weights of samples; those of a trial are of sum 1.
  """
  one = functools.partial(_fit_one, model, settings)
  return jax.vmap(one)(start, x_TND, y_TN, weight_TN)


def _fit_one(
  model: Model,
  settings: Settings,
  start: Params,
  x_ND: jax.Array,
  y_N: jax.Array,
  weight_N: jax.Array,
) -> Fits:
  num = y_N.shape[0]
  objective = lambda params: log_likelihood(model, params, x_ND, y_N, weight_N)

  def goes_on(state):
    _, value, before, iteration = state
    gain = (value - before) * num
    # A gain that is NaN ends it as well.
    return (iteration < settings.iterations) & (gain >= settings.tolerance)

  once = lambda params: step(model, settings, params, x_ND, y_N, weight_N)

  def iterate(state):
    params, value, _, iteration = state
    if settings.accelerated:
      params, new = extrapolated(once, objective, params, settings)
      return params, new, value, iteration + 3
    params = once(params)
    return params, objective(params), value, iteration + 1

  first = objective(start)
  state = (start, first, first - 1.0, jnp.zeros((), jnp.int32))
  params, value, before, iterations = jax.lax.while_loop(
    goes_on, iterate, state
  )
  gradient, _ = jax.flatten_util.ravel_pytree(jax.grad(objective)(params))
  converged = (value - before) * num < settings.tolerance
  return Fits(
    params=params,
    objective_T=value,
    gradient_T=jnp.linalg.norm(gradient),
    iterations_T=iterations,
    converged_T=converged & jnp.isfinite(value),
    restart_T=jnp.zeros((), jnp.int32),
  )


def extrapolated(
  once: Callable[[Params], Params],
  objective: Callable[[Params], jax.Array],
  params: Params,
  settings: Settings,
) -> tuple[Params, jax.Array]:
  """Three iterations of EM as one of SQUAREM: see the head of the file.

  Returns:
    The parameters, and their objective.
  """
  flat = lambda params: jax.flatten_util.ravel_pytree(params)[0]
  first = once(params)
  second = once(first)
  start_P, rebuild = jax.flatten_util.ravel_pytree(params)
  move_P = flat(first) - start_P
  change_P = flat(second) - flat(first) - move_P
  ratio = jnp.linalg.norm(move_P) / jnp.linalg.norm(change_P)
  # 1 is the second iteration itself; a ratio that is NaN becomes 1 as well.
  scale = jnp.where(ratio > 1, ratio, 1.0)
  far = rebuild(start_P + 2 * scale * move_P + scale**2 * change_P)
  bound = settings.largest_gate
  far = dataclasses.replace(
    far, gate=jax.tree.map(lambda leaf: jnp.clip(leaf, -bound, bound), far.gate)
  )
  third = once(far)
  plain, value = objective(second), objective(third)
  # Not where `value` is NaN.
  wins = value >= plain
  chosen = jax.tree.map(lambda a, b: jnp.where(wins, a, b), third, second)
  return chosen, jnp.where(wins, value, plain)


def log_likelihood(
  model: Model,
  params: Params,
  x_ND: jax.Array,
  y_N: jax.Array,
  weight_N: jax.Array,
) -> jax.Array:
  """The weighted mean of log p(y | x)."""
  return weight_N @ model.log_density(params, x_ND, y_N)


def step(
  model: Model,
  settings: Settings,
  params: Params,
  x_ND: jax.Array,
  y_N: jax.Array,
  weight_N: jax.Array,
) -> Params:
  """One iteration for one trial: see the head of the file."""
  part_NK = model.log_parts(params, x_ND, y_N)
  share_NK = weight_N[:, None] * jax.nn.softmax(part_NK, axis=1)
  share_NS = share_NK[:, : model.num_shared]
  share_NE = share_NK[:, model.num_shared :]
  least = settings.least_variance
  routed_EP, log_variance_E = maximise_experts(
    model.routed, settings, params.routed_EP, (x_ND, y_N, share_NE)
  )
  new = dataclasses.replace(
    params,
    gate=maximise_gate(model, settings, params, x_ND, share_NE),
    routed_EP=routed_EP,
    log_variance_E=jnp.log(jnp.maximum(log_variance_E, least)),
  )
  if model.shared is None:
    return new
  shared_SQ, log_variance_S = maximise_experts(
    model.shared, settings, params.shared_SQ, (x_ND, y_N, share_NS)
  )
  mass_S = jnp.maximum(share_NS.sum(axis=0), LEAST_MASS)
  return dataclasses.replace(
    new,
    shared_SQ=shared_SQ,
    shared_log_variance_S=jnp.log(jnp.maximum(log_variance_S, least)),
    shared_logit_S=jnp.log(mass_S),
  )


def maximise_experts(
  expert: Expert,
  settings: Settings,
  eta_KP: jax.Array,
  observed: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
  """Steps 3 and 4: a Gauss-Newton step of each expert, and its variance.

  Args:
    expert: the kind.
    settings: how often a step is halved.
    eta_KP: parameters.
    observed: x_ND, y_N and the responsibilities share_NK.

  Returns:
    The parameters, and the variances without their lower bound.
  """
  x_ND, y_N, share_NK = observed

  def one(eta_P, share_N):
    loss = lambda eta_P: share_N @ jnp.square(y_N - expert(eta_P, x_ND))
    slope_NP = jax.jacfwd(expert)(eta_P, x_ND)
    weighted_NP = share_N[:, None] * slope_NP
    move_P = solve(
      weighted_NP.T @ slope_NP, weighted_NP.T @ (y_N - expert(eta_P, x_ND))
    )
    gain = lambda eta_P: -loss(eta_P)
    eta_P = halved(gain, eta_P, move_P, settings.halvings)
    return eta_P, loss(eta_P) / jnp.maximum(share_N.sum(), LEAST_MASS)

  return jax.vmap(one, (0, 1))(eta_KP, share_NK)


def maximise_gate(
  model: Model,
  settings: Settings,
  params: Params,
  x_ND: jax.Array,
  share_NE: jax.Array,
) -> dict[str, jax.Array]:
  """Step 5: the weights of the gate after one Fisher scoring step."""
  flat_G, rebuild = jax.flatten_util.ravel_pytree(params.gate)
  log_gates = lambda flat_G: model.gate(rebuild(flat_G), x_ND)
  # A gate that is zero has the logarithm -1e30, and no share.
  gain = lambda flat_G: jnp.sum(share_NE * log_gates(flat_G))
  # Without a derivative a pinned weight does not move.
  mask_G, _ = jax.flatten_util.ravel_pytree(
    model.gate.pinned(model.num_routed, model.width)
  )
  slope_NEG = jnp.where(mask_G, 0.0, jax.jacfwd(log_gates)(flat_G))
  expected_NE = share_NE.sum(axis=1, keepdims=True) * jnp.exp(log_gates(flat_G))
  fisher_GG = jnp.einsum(
    'neg,neh->gh', expected_NE[..., None] * slope_NEG, slope_NEG
  )
  move_G = solve(fisher_GG, jnp.einsum('ne,neg->g', share_NE, slope_NEG))
  bound = settings.largest_gate
  limit = lambda flat_G: jnp.clip(flat_G, -bound, bound)
  return rebuild(halved(gain, flat_G, move_G, settings.halvings, limit))


def solve(matrix_PP: jax.Array, vector_P: jax.Array) -> jax.Array:
  """The solution of a positive semi-definite system, with a small ridge."""
  size = matrix_PP.shape[0]
  ridge = RIDGE * jnp.trace(matrix_PP) / size + LEAST_MASS
  return jnp.linalg.solve(matrix_PP + ridge * jnp.eye(size), vector_P)


def halved(
  gain: Callable[[jax.Array], jax.Array],
  start_P: jax.Array,
  move_P: jax.Array,
  halvings: int,
  limit: Callable[[jax.Array], jax.Array] = lambda value: value,
) -> jax.Array:
  """The start plus the largest of move, move / 2, ... that does not lose.

  Args:
    gain: the objective, which is to grow.
    start_P: the present parameters.
    move_P: the step.
    halvings: after so many the start is returned.
    limit: brings parameters back into the set where they may lie.
  """
  first = gain(start_P)
  at = lambda scale: limit(start_P + scale * move_P)
  # NaN is a loss too.
  loses = lambda scale: ~(gain(at(scale)) >= first)

  def goes_on(state):
    _, tries, fails = state
    return fails & (tries < halvings)

  def halve(state):
    scale, tries, _ = state
    scale = scale / 2
    return scale, tries + 1, loses(scale)

  one = jnp.ones((), start_P.dtype)
  scale, _, fails = jax.lax.while_loop(
    goes_on, halve, (one, jnp.zeros((), jnp.int32), loses(one))
  )
  return jnp.where(fails, start_P, at(scale))
