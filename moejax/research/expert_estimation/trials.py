"""The trials of a case at one sample size: samples, fits, and their losses.

Random numbers of a trial come from (seed, case, size, trial) alone, so that a
trial is the same whatever others are run.
"""

import concurrent.futures
import dataclasses
import functools
import time
import zlib
from typing import Any

import jax
import numpy as np

from moejax.core import fields
from moejax.data import workers
from moejax.research.expert_estimation import (
  align,
  atoms,
  data,
  em,
  maximum,
  starts,
  voronoi,
)
from moejax.research.expert_estimation.em import Settings
from moejax.research.expert_estimation.model import Model, Params, double
from moejax.research.expert_estimation.studies import EM, Case
from moejax.research.expert_estimation.truths import Truth

Row = dict[str, Any]
# Samples of the trials that EM fits together, by the memory that they take.
ON_CPU, ELSEWHERE = 4_000_000, 10_000_000
# Trials of a group at least, where there are so many.
LEAST_GROUP = 4
# What a row has instead of a loss.
FAILED = 'failed'
TOO_FAR = 'the loss is not finite'
NON_FINITE = 'the log likelihood, or the square, is not finite'


@dataclasses.dataclass(frozen=True)
class Request(fields.Checked):
  """What is asked of a study; equal requests give equal results.

  Attributes:
    trials: of each size.
    sizes: sample sizes, ascending.
    seed: of all random numbers.
    restarts: starts of a trial, of which the best fit counts. The first is near
      the truth, as in the papers, or near the model that is nearest to it; the
      others know the sample alone.
    check: at each size, trials for which L-BFGS-B also maximises the
      likelihood, from the starts of EM.
    em: how EM runs.
    optimiser: how SciPy's optimisers run.
  """

  trials: int = fields.number(40, at_least=1)
  sizes: tuple[int, ...] = fields.number((100, 1000, 10_000), at_least=3)
  seed: int = fields.number(0, at_least=0)
  restarts: int = fields.number(1, at_least=1, at_most=1000)
  check: int = fields.number(0, at_least=0)
  em: Settings = Settings()
  optimiser: maximum.Optimiser = maximum.Optimiser()


@dataclasses.dataclass(frozen=True)
class Trial:
  """A sample and where its estimator begins.

  Attributes:
    number: from 0.
    sample: the samples.
    starts: parameters, as many as there are restarts.
  """

  number: int
  sample: data.Sample
  starts: list[Params]


def rng_of(name: str, size: int, trial: int, seed: int) -> np.random.Generator:
  """The random numbers of one trial.

  Args:
    name: of the case's truth: cases with one truth share samples.
    size: number of samples.
    trial: number of the trial.
    seed: of the request.
  """
  return np.random.default_rng([seed, zlib.crc32(name.encode()), size, trial])


def run(
  case: Case, name: str, size: int, request: Request, reference: Truth
) -> dict[str, Any]:
  """Runs all trials of one size.

  Args:
    case: what is fitted to what.
    name: see `rng_of`.
    size: number of samples of a trial.
    request: how many trials, and how they are fitted.
    reference: the truth that losses compare with, and near which fits begin;
      the projection for a case that is `projected`. Such a likelihood has lower
      maxima near the truth, where half of the fits would end.

  Returns:
    `rows`, one for each trial, and `seconds`, all ready for JSON.
  """
  began, cpu_began = time.monotonic(), time.process_time()
  trials = [
    prepare(case, name, size, i, request, reference)
    for i in range(request.trials)
  ]
  fitter = by_groups if case.estimator == EM else by_least_squares
  rows = []
  for trial, fit in zip(trials, fitter(case, trials, request), strict=True):
    row = describe(case, trial, fit, reference)
    if trial.number < request.check and case.estimator == EM:
      row |= _checked(case, trial, row, request)
    rows.append(row)
  return {
    'rows': rows,
    'seconds': time.monotonic() - began,
    'processor_seconds': time.process_time() - cpu_began,
  }


def prepare(
  case: Case,
  name: str,
  size: int,
  number: int,
  request: Request,
  near: Truth,
) -> Trial:
  """Draws the sample and the starts of one trial.

  Args:
    case: what is fitted to what.
    name: see `rng_of`.
    size: number of samples.
    number: of the trial.
    request: how many starts.
    near: near which the first start is.
  """
  rng = rng_of(name, size, number, request.seed)
  sample = data.draw(case.truth, size, rng)
  begins = [starts.near_truth(case.model, near, sample, rng)]
  begins += [
    starts.blind(case.model, case.truth, sample, rng)
    for _ in range(request.restarts - 1)
  ]
  return Trial(number, sample, begins)


def by_groups(
  case: Case, trials: list[Trial], request: Request
) -> list[em.Fits]:
  """Fits of all trials by EM, a group of trials at a time on each core."""
  cores, limit = workers.cores(), ON_CPU
  if jax.default_backend() != 'cpu':
    cores, limit = 1, ELSEWHERE
  most = max(*request.sizes, len(trials[0].sample))
  # Several groups for each core, as some take longer than others.
  group = -(-len(trials) // (1 if cores == 1 else 2 * cores))
  group = min(max(group, LEAST_GROUP), len(trials), max(1, limit // most))
  starts = range(0, len(trials), group)
  fit = lambda start: by_em(
    case, trials[start : start + group], request, (group, most)
  )
  with concurrent.futures.ThreadPoolExecutor(cores) as pool:
    return [found for fits in pool.map(fit, starts) for found in fits]


def by_em(
  case: Case,
  trials: list[Trial],
  request: Request,
  room: tuple[int, int] = (0, 0),
) -> list[em.Fits]:
  """The best of the restarts of each trial, by EM of all trials at once.

  Args:
    case: what is fitted.
    trials: their samples, of one size, and starts.
    request: how they are fitted.
    room: see `em.fit`.
  """
  stack = lambda *leaves: np.stack(leaves)
  samples = [trial.sample for trial in trials]
  x_TND, y_TN, weight_TN = (
    np.stack([getattr(sample, name) for sample in samples])
    for name in ('x_ND', 'y_N', 'weight_N')
  )
  best: em.Fits | None = None
  with double():
    for restart in range(request.restarts):
      begins = jax.tree.map(stack, *(t.starts[restart] for t in trials))
      fits = em.fit(
        case.model, request.em, begins, x_TND, y_TN, weight_TN, room
      )
      fits = dataclasses.replace(fits, restart_T=fits.restart_T + restart)
      best = fits if best is None else better(best, fits)
  return [
    jax.tree.map(lambda leaf, i=i: leaf[i], best) for i in range(len(trials))
  ]


def better(one: em.Fits, other: em.Fits) -> em.Fits:
  """Of each trial the fit of the larger likelihood; one that is finite."""
  finite_T = np.isfinite(other.objective_T)
  wins_T = finite_T & ~(one.objective_T >= other.objective_T)

  def choose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    shape = wins_T.shape + (1,) * (first.ndim - 1)
    return np.where(wins_T.reshape(shape), second, first)

  return jax.tree.map(choose, one, other)


def by_least_squares(
  case: Case, trials: list[Trial], request: Request
) -> list[em.Fits]:
  """The best of the restarts of each trial, by SciPy, one by one."""
  fits = []
  for trial in trials:
    try:
      fit = maximum.least_squares(
        case.model, trial.sample, trial.starts, request.optimiser
      )
    except maximum.NonFiniteError:
      fit = maximum.failed(trial.starts[0])
    fits.append(
      em.Fits(
        params=fit.params,
        objective_T=np.asarray(fit.objective),
        gradient_T=np.asarray(fit.gradient),
        iterations_T=np.asarray(fit.iterations),
        converged_T=np.asarray(fit.converged),
        restart_T=np.asarray(fit.restart),
      )
    )
  return fits


def describe(case: Case, trial: Trial, fit: em.Fits, reference: Truth) -> Row:
  """A trial as a row of JSON; a failed one says why and has no loss."""
  row: Row = {
    'trial': trial.number,
    'converged': bool(fit.converged_T),
    'iterations': int(fit.iterations_T),
    'restart': int(fit.restart_T),
  }
  leaves = [fit.objective_T, fit.gradient_T, *jax.tree.leaves(fit.params)]
  if not all(np.all(np.isfinite(leaf)) for leaf in leaves):
    return row | {FAILED: NON_FINITE}
  truth = reference.measures
  fitted = align.aligned(case.model, atoms.of(case.model, fit.params), truth)
  terms = voronoi.LOSSES[case.loss](fitted, truth)
  apart = distance(case, fit.params)
  if not np.all(np.isfinite([*terms.values(), apart])):
    return row | {FAILED: TOO_FAR}
  return row | {
    'objective': float(fit.objective_T),
    'gradient': float(fit.gradient_T),
    'terms': terms,
    'errors': voronoi.parameter_errors(fitted, truth),
    'distance': apart,
  }


def distance(case: Case, params: Params) -> float:
  """How far the fit is from the truth as a function.

  The root of the Kullback-Leibler divergence of the true density from the
  fitted one, in nats; or the root of the mean square of the difference between
  the true and the fitted regression. Both go as n ** -1/2 if the model can
  express the truth.
  """
  truth, model = case.truth, case.model
  if model.regression:
    node_X, weight_X = np.polynomial.legendre.leggauss(400)
    x_XD = truth.edge * node_X[:, None]
    with double():
      gap_X = np.asarray(
        _mean_gap(truth.model, model, truth.params, params, x_XD)
      )
    return float(np.sqrt(weight_X @ np.square(gap_X) / 2))
  nodes = data.quadrature(truth, 100, 12)
  at = (nodes.x_ND, nodes.y_N)
  with double():
    gap_N = np.asarray(
      _density_gap(truth.model, model, truth.params, params, *at)
    )
  return float(np.sqrt(max(0.0, nodes.weight_N @ gap_N)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _mean_gap(
  true_model: Model,
  model: Model,
  true_params: Params,
  params: Params,
  x_ND: jax.Array,
) -> jax.Array:
  return true_model.mean(true_params, x_ND) - model.mean(params, x_ND)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _density_gap(
  true_model: Model,
  model: Model,
  true_params: Params,
  params: Params,
  x_ND: jax.Array,
  y_N: jax.Array,
) -> jax.Array:
  true_N = true_model.log_density(true_params, x_ND, y_N)
  return true_N - model.log_density(params, x_ND, y_N)


def _checked(case: Case, trial: Trial, row: Row, request: Request) -> Row:
  """What L-BFGS-B finds from the same starts, beside EM."""
  try:
    fit = maximum.maximum_likelihood(
      case.model, trial.sample, trial.starts, request.optimiser
    )
  except maximum.NonFiniteError:
    return {'check': None}
  gap = None
  if FAILED not in row:
    gap = (fit.objective - row['objective']) * len(trial.sample)
  return {
    'check': {
      'more_log_likelihood': gap,
      'converged': fit.converged,
      'gradient': fit.gradient,
      'restart': fit.restart,
    }
  }
