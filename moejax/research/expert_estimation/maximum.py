"""Maximum likelihood and least squares of one trial by SciPy, with restarts.

Maximum likelihood is a check on EM: another algorithm (L-BFGS-B), which knows
nothing of responsibilities, from several starts. Least squares is the estimator
of regression papers (arXiv 2402.02952, 2503.03213), by SciPy's trust region.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.flatten_util
import numpy as np

from moejax.core import errors, fields
from moejax.research.expert_estimation import em
from moejax.research.expert_estimation.data import Sample
from moejax.research.expert_estimation.model import Model, Params, double

# Parameters that a regression does not have.
VARIANCES = ('log_variance_E', 'shared_log_variance_S')
# Bound on logarithms of variances, which only stops what runs away.
LARGEST = 1e6
EXPERTS = ('routed_EP', 'shared_SQ')


class NonFiniteError(errors.InputError):
  """The objective is not finite from any start."""


@dataclasses.dataclass(frozen=True)
class Optimiser(fields.Checked):
  """How long SciPy's optimisers run, and where.

  Attributes:
    iterations: the most iterations of a start.
    gradient: an optimiser has converged when no entry of the gradient of the
      objective is larger. Within bounds, the projected gradient.
    least_variance: as in `em.Settings`.
    largest_gate: as in `em.Settings`.
    largest_expert: bound on the absolute parameters of experts. The theorems
      assume a compact set; without one, experts that nearly cancel each other
      run away.
    gain: least squares have converged when a step adds less than this to the
      log likelihood of the whole sample under normal noise, in nats.
  """

  iterations: int = fields.number(2000, at_least=1)
  gradient: float = fields.number(1e-6, above=0, at_most=1)
  least_variance: float = fields.number(0.01, above=0, at_most=100)
  largest_gate: float = fields.number(30.0, above=0, at_most=1000)
  largest_expert: float = fields.number(100.0, above=0, at_most=1e6)
  gain: float = fields.number(1e-5, above=0, at_most=1)


@dataclasses.dataclass(frozen=True)
class Fit:
  """The best of several starts.

  Attributes:
    params: parameters.
    objective: mean log likelihood, or minus the mean square.
    gradient: largest entry of the projected gradient of the objective.
    iterations: of the best start.
    converged: whether the best start stopped by its own criterion.
    restart: which start it was.
    agreeing: starts that reached the best objective, to 1e-6 of it or of 1.
    objectives: of all starts, None where it is not finite.
  """

  params: Params
  objective: float
  gradient: float
  iterations: int
  converged: bool
  restart: int
  agreeing: int
  objectives: tuple[float | None, ...]


def maximum_likelihood(
  model: Model,
  sample: Sample,
  starts: Sequence[Params],
  settings: Optimiser | None = None,
) -> Fit:
  """Maximises the log likelihood within bounds by L-BFGS-B.

  Args:
    model: a density.
    sample: the data, or the nodes of a quadrature.
    starts: where it begins, one after the other.
    settings: `Optimiser()` if None.

  Raises:
    InputError: no start.
    NonFiniteError: the log likelihood is finite from none.
  """
  import scipy.optimize

  settings = settings or Optimiser()

  def run(start: Params) -> tuple[Params, float, int, bool]:
    first_P, rebuild, bounds = _flat(model, start, settings)
    value_and_grad = _value_and_grad(model)

    def loss(flat_P: np.ndarray) -> tuple[float, np.ndarray]:
      value, gradient = value_and_grad(
        rebuild(flat_P), sample.x_ND, sample.y_N, sample.weight_N
      )
      flat, _ = jax.flatten_util.ravel_pytree(_free(model, gradient))
      return -float(value), -np.asarray(flat)

    found = scipy.optimize.minimize(
      loss,
      first_P,
      jac=True,
      method='L-BFGS-B',
      bounds=bounds,
      options={
        'maxiter': settings.iterations,
        'maxfun': 20 * settings.iterations,
        'gtol': settings.gradient,
        # The likelihood is flat where a model is over-fitted, so that a small
        # gain is no sign of a maximum.
        'ftol': 1e-15,
      },
    )
    return rebuild(found.x), -float(found.fun), int(found.nit), found.success

  def projected(params: Params) -> float:
    _, gradient = _value_and_grad(model)(
      params, sample.x_ND, sample.y_N, sample.weight_N
    )
    flat_P, _, bounds = _flat(model, params, settings)
    gradient_P, _ = jax.flatten_util.ravel_pytree(_free(model, gradient))
    return _projected(flat_P, np.asarray(gradient_P), bounds)

  with double():
    return _best(run, projected, starts)


def least_squares(
  model: Model,
  sample: Sample,
  starts: Sequence[Params],
  settings: Optimiser | None = None,
) -> Fit:
  """Minimises the weighted mean of (y - f(x))^2 within bounds.

  Args:
    model: a regression.
    sample: the data.
    starts: where it begins, one after the other.
    settings: `Optimiser()` if None.

  Raises:
    InputError: no start.
    NonFiniteError: the squares are finite from none.
  """
  import scipy.optimize

  settings = settings or Optimiser()
  x_ND, y_N, root_N = sample.x_ND, sample.y_N, np.sqrt(sample.weight_N)

  def run(start: Params) -> tuple[Params, float, int, bool]:
    first_P, rebuild, bounds = _flat(model, start, settings)
    residual, jacobian = _regression(model)
    low_P, high_P = np.array(bounds).T
    # SciPy's trust region takes no parameter that is fixed.
    moves_M = np.flatnonzero(low_P < high_P)

    def whole(moved_M: np.ndarray) -> np.ndarray:
      flat_P = first_P.copy()
      flat_P[moves_M] = moved_M
      return flat_P

    def slopes(moved_M: np.ndarray) -> np.ndarray:
      slope_NP = jacobian(whole(moved_M), x_ND, y_N, root_N)
      return np.take(np.asarray(slope_NP), moves_M, axis=1)

    found = scipy.optimize.least_squares(
      lambda moved_M: np.asarray(residual(whole(moved_M), x_ND, y_N, root_N)),
      first_P[moves_M],
      jac=slopes,
      bounds=(low_P[moves_M], high_P[moves_M]),
      x_scale='jac',
      gtol=settings.gradient,
      # The likelihood is that of N log(squares) / 2.
      ftol=2 * settings.gain / len(sample),
      xtol=1e-12,
      max_nfev=settings.iterations,
    )
    params = rebuild(whole(found.x))
    return params, -2 * float(found.cost), found.nfev, found.success

  def projected(params: Params) -> float:
    flat_P, _, bounds = _flat(model, params, settings)
    residual, jacobian = _regression(model)
    slope_NP = np.asarray(jacobian(flat_P, x_ND, y_N, root_N))
    gradient_P = -2 * slope_NP.T @ residual(flat_P, x_ND, y_N, root_N)
    return _projected(flat_P, np.asarray(gradient_P), bounds)

  with double():
    return _best(run, projected, starts)


@functools.lru_cache(maxsize=64)
def _value_and_grad(model: Model) -> Callable[..., tuple[Any, Params]]:
  value = functools.partial(em.log_likelihood, model)
  return jax.jit(jax.value_and_grad(value))


@functools.lru_cache(maxsize=64)
def _regression(model: Model) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """Weighted residuals [N] of a vector of parameters, and their Jacobian."""
  zeros = model.zeros()
  _, unravel = jax.flatten_util.ravel_pytree(_free(model, zeros))

  def residual(
    flat_P: jax.Array, x_ND: jax.Array, y_N: jax.Array, root_N: jax.Array
  ) -> jax.Array:
    params = dataclasses.replace(zeros, **unravel(flat_P))
    return root_N * (model.mean(params, x_ND) - y_N)

  return jax.jit(residual), jax.jit(jax.jacfwd(residual))


def _best(
  run: Callable[[Params], tuple[Params, float, int, bool]],
  projected: Callable[[Params], float],
  starts: Sequence[Params],
) -> Fit:
  """Runs all starts and keeps the one of the largest objective."""
  if not starts:
    raise errors.InputError('an optimiser needs a start; none is given')
  fits = []
  for start in starts:
    try:
      fits.append(run(start))
    except ValueError:  # SciPy's word for residuals that are not finite
      fits.append((start, -np.inf, 0, False))
  values = np.array([value for _, value, _, _ in fits])
  values = np.where(np.isfinite(values), values, -np.inf)
  restart = int(np.argmax(values))
  if not np.isfinite(values[restart]):
    raise NonFiniteError(
      f'the objective is not finite from any of {len(starts)} starts; scale '
      'the data, or give other starts'
    )
  params, value, iterations, converged = fits[restart]
  near = values >= value - 1e-6 * max(1.0, abs(value))
  return Fit(
    params=jax.tree.map(np.asarray, params),
    objective=value,
    gradient=projected(params),
    iterations=int(iterations),
    converged=bool(converged),
    restart=restart,
    agreeing=int(near.sum()),
    objectives=tuple(float(v) if np.isfinite(v) else None for v in values),
  )


def failed(start: Params) -> Fit:
  """What stands for a fit of which the objective is not finite."""
  return Fit(start, np.nan, np.nan, 0, False, 0, 0, (None,))


def _free(model: Model, params: Params) -> dict[str, Any]:
  """The parameters that are estimated, by name."""
  names = [field.name for field in dataclasses.fields(params)]
  if model.regression:
    names = [name for name in names if name not in VARIANCES]
  return {name: getattr(params, name) for name in names}


def _flat(
  model: Model, start: Params, settings: Optimiser
) -> tuple[np.ndarray, Callable[[np.ndarray], Params], list[Any]]:
  """A start as a vector, the way back, and the bounds of the vector."""
  flat_P, unravel = jax.flatten_util.ravel_pytree(_free(model, start))
  rebuild = lambda flat_P: dataclasses.replace(start, **unravel(flat_P))
  bounds = _bounds(model, settings)
  pinned = jax.tree.map(lambda leaf: np.zeros(np.shape(leaf)), start)
  pinned = dataclasses.replace(
    pinned, gate=model.gate.pinned(model.num_routed, model.width)
  )
  mask_P, _ = jax.flatten_util.ravel_pytree(_free(model, pinned))
  for i in np.flatnonzero(mask_P):
    bounds[i] = (float(flat_P[i]), float(flat_P[i]))
  low_P, high_P = np.array(bounds).T
  return np.clip(np.asarray(flat_P), low_P, high_P), rebuild, bounds


def _bounds(model: Model, settings: Optimiser) -> list[tuple[float, float]]:
  """Lower and upper bound of each entry of the vector."""
  ranges = {
    'gate': (-settings.largest_gate, settings.largest_gate),
    **dict.fromkeys(
      EXPERTS, (-settings.largest_expert, settings.largest_expert)
    ),
    **dict.fromkeys(VARIANCES, (np.log(settings.least_variance), LARGEST)),
  }
  free = _free(model, model.zeros())
  bounds = []
  # In the order in which `ravel_pytree` takes the keys of a dictionary.
  for name in sorted(free):
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(free[name]))
    bounds += [ranges.get(name, (-LARGEST, LARGEST))] * size
  return bounds


def _projected(
  flat_P: np.ndarray, gradient_P: np.ndarray, bounds: Sequence[Any]
) -> float:
  """The largest entry of the gradient that does not point out of bounds."""
  low_P, high_P = np.array(bounds).T
  moved_P = np.clip(flat_P + gradient_P, low_P, high_P) - flat_P
  return float(np.max(np.abs(moved_P)))
