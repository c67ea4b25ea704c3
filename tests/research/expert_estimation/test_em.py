"""EM and SciPy's optimisers: steps, likelihoods, and one against the other."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import scipy.optimize

from moejax.core import errors
from moejax.research.expert_estimation import (
  data,
  em,
  maximum,
  projection,
  starts,
  studies,
  trials,
  truths,
)
from moejax.research.expert_estimation.experts import EXPERTS
from moejax.research.expert_estimation.gates import GATES
from moejax.research.expert_estimation.model import Model, Params, double

SIZE = 200
SETTINGS = em.Settings()


def rng(seed=5):
  return np.random.default_rng(seed)


@functools.cache
def compiled_step(model):
  """One iteration and the likelihood before it."""

  @jax.jit
  def run(params, x_ND, y_N, weight_N):
    value = em.log_likelihood(model, params, x_ND, y_N, weight_N)
    return em.step(model, SETTINGS, params, x_ND, y_N, weight_N), value

  return run


def observed(sample):
  return sample.x_ND, sample.y_N, sample.weight_N


MONOTONE = {
  'softmax_relu': studies.SOFTMAX['softmax_relu'],
  'sigmoid_dense': studies.SIGMOID['sigmoid_dense'],
  'hierarchy': studies.STUDIES['hierarchical'].cases['softmax_laplace'],
  'top_3': studies.STUDIES['top_k'].cases['keeps_3'],
}


@pytest.mark.parametrize(
  'name',
  [
    'sigmoid_dense',
    *(
      pytest.param(name, marks=pytest.mark.soak)
      for name in MONOTONE
      if name != 'sigmoid_dense'
    ),
  ],
)
def test_the_likelihood_never_falls(name):
  """From a start that knows nothing, where steps are large."""
  case = MONOTONE[name]
  sample = data.draw(case.truth, SIZE, rng())
  params = starts.blind(case.model, case.truth, sample, rng())
  values = []
  with double():
    run = compiled_step(case.model)
    for _ in range(60):
      params, value = run(params, *observed(sample))
      values.append(float(value))
  assert np.all(np.isfinite(values))
  assert values[-1] > values[0] + 0.1
  assert np.min(np.diff(values)) > -1e-9


def test_extrapolated_iterations_never_lower_the_likelihood_either():
  """And they get further than as many plain ones."""
  case = MONOTONE['sigmoid_dense']
  sample = data.draw(case.truth, SIZE, rng())
  params = starts.blind(case.model, case.truth, sample, rng())
  plain, values = params, []
  with double():
    run = compiled_step(case.model)
    once = lambda params: run(params, *observed(sample))[0]
    value = lambda params: run(params, *observed(sample))[1]
    for _ in range(20):
      values.append(float(value(params)))
      params, new = em.extrapolated(once, value, params, SETTINGS)
      assert float(new) == pytest.approx(float(value(params)))
      for _ in range(3):
        plain = once(plain)
    assert np.min(np.diff(values)) > -1e-9
    assert values[-1] > float(value(plain)) - 0.01


def test_an_m_step_of_linear_experts_is_weighted_least_squares():
  """Experts, variances and shares against NumPy, an atom at a time."""
  case = studies.SOFTMAX['softmax_linear']
  sample = data.draw(case.truth, SIZE, rng())
  params = starts.near_truth(case.model, case.truth, sample, rng())
  with double():
    new, _ = compiled_step(case.model)(params, *observed(sample))
    log_part = np.asarray(case.model.log_parts(params, sample.x_ND, sample.y_N))
  share = np.exp(log_part - np.logaddexp.reduce(log_part, 1, keepdims=True))
  design = np.concatenate([sample.x_ND, np.ones((SIZE, 1))], axis=1)
  shared = np.concatenate([new.shared_SQ, new.routed_EP])
  log_variance = np.concatenate([
    new.shared_log_variance_S,
    new.log_variance_E,
  ])
  for atom in range(5):
    root = np.sqrt(share[:, atom])
    wanted, *_ = np.linalg.lstsq(root[:, None] * design, root * sample.y_N)
    np.testing.assert_allclose(shared[atom], wanted, rtol=1e-5, atol=1e-6)
    square = share[:, atom] @ (sample.y_N - design @ wanted) ** 2
    np.testing.assert_allclose(
      np.exp(log_variance[atom]), square / share[:, atom].sum(), rtol=1e-5
    )
  omega = np.exp(new.shared_logit_S) / np.exp(new.shared_logit_S).sum()
  total = share[:, :2].sum(axis=0)
  np.testing.assert_allclose(omega, total / total.sum(), rtol=1e-6)


def gate_steps(gate, start, share_NE, x_ND, num):
  """The objective of a gate's M-step at the start and after `num` steps."""
  model = Model(GATES[gate], EXPERTS['linear'], 3)
  params = Params(start, *[np.zeros(0)] * 5)
  value = jax.jit(lambda weights: (share_NE * model.gate(weights, x_ND)).sum())

  @jax.jit
  def improve(weights):
    now = params.replace(gate=weights)
    return em.maximise_gate(model, SETTINGS, now, x_ND, share_NE)

  weights = start
  for _ in range(num):
    weights = improve(weights)
  return float(value(start)), float(value(weights)), value


def test_m_steps_of_a_softmax_gate_reach_the_numeric_maximum():
  """Of any responsibilities: it is concave. SciPy's BFGS sees values alone."""
  x_ND = rng().uniform(-3, 3, (60, 1))
  share_NE = rng(6).dirichlet([1.0, 1.0, 1.0], 60) / 60
  start = {'slope': np.zeros((3, 1)), 'bias': np.zeros(3)}
  with double():
    _, reached, value = gate_steps('softmax', start, share_NE, x_ND, 20)
    found = scipy.optimize.minimize(
      lambda z: -float(value({'slope': z[:3, None], 'bias': z[3:]})),
      np.zeros(6),
      method='BFGS',
    )
  assert reached > -found.fun - 1e-9


@pytest.mark.parametrize('gate', ['normalised_sigmoid', 'laplace'])
def test_m_steps_of_a_gate_approach_responsibilities_that_it_can_express(gate):
  """sum r log g is largest where g is r (Gibbs), which bounds it."""
  x_ND = rng().uniform(-3, 3, (200, 1))
  true = {'slope': [[-1.0], [0.2], [1.0]], 'bias': [0.3, -0.4, 0.1]}
  true = {key: np.array(values) for key, values in true.items()}
  start = {key: value + 0.1 * rng().normal() for key, value in true.items()}
  start['slope'] = true['slope'] * 1.2
  with double():
    share_NE = np.exp(np.asarray(GATES[gate](true, x_ND))) / 200
    most = float((share_NE * np.log(200 * share_NE)).sum())
    first, last, _ = gate_steps(gate, start, share_NE, x_ND, 20)
  assert last <= most + 1e-12
  assert most - last < 0.01 * (most - first)


def test_a_pinned_pair_stays_where_it_begins():
  """In EM and in SciPy's optimiser, while all other weights move."""
  truth = truths.CONSTANT_GATES['linear']
  model = studies.fitted(truth, 3, 0, 'normalised_sigmoid_pinned')
  sample = data.draw(truth, 60, rng())
  start = starts.near_truth(model, truth, sample, rng())
  assert start.gate['slope'][-1] == truth.params.gate['slope'][-1]
  with double():
    new, _ = compiled_step(model)(start, *observed(sample))
  settings = maximum.Optimiser(iterations=3)
  other = maximum.maximum_likelihood(model, sample, [start], settings)
  for params in (new, other.params):
    for name in ('slope', 'bias'):
      moved = np.asarray(params.gate[name]) != start.gate[name]
      assert moved.reshape(3, -1)[:, 0].tolist() == [True, True, False]


@pytest.fixture(scope='module')
def fitted():
  """Four trials of theorem 2's setting, by EM of all at once."""
  case = studies.SOFTMAX['softmax_linear']
  request = trials.Request(
    trials=4, sizes=(SIZE,), em=em.Settings(iterations=60)
  )
  prepared = [
    trials.prepare(case, 'linear', SIZE, i, request) for i in range(4)
  ]
  return case, request, prepared, trials.by_em(case, prepared, request)


def test_em_is_never_far_below_another_optimiser(fitted):
  """L-BFGS-B from the same start reaches EM's likelihood, or another one's.

  Both climb from one start, and may reach different maxima; that EM's is lower
  by more than a few units in all four trials would be an error of EM.
  """
  case, request, prepared, fits = fitted
  gaps = []
  for trial, fit in list(zip(prepared, fits, strict=True))[:2]:
    other = maximum.maximum_likelihood(
      case.model, trial.sample, [trial.starts[0], fit.params]
    )
    # From EM's own end the optimiser finds hardly anything more.
    assert other.objective >= float(fit.objective_T) - 1e-9
    gaps.append(SIZE * (other.objective - float(fit.objective_T)))
  assert min(gaps) < 1


def test_all_trials_at_once_are_as_each_by_itself(fitted):
  case, request, prepared, fits = fitted
  alone = trials.by_em(case, prepared[2:3] * 4, request)[0]
  np.testing.assert_allclose(
    float(alone.objective_T), float(fits[2].objective_T), rtol=1e-9
  )


def test_more_restarts_never_do_worse_and_a_check_stands_beside_em(fitted):
  case, request, _, fits = fitted
  more = dataclasses.replace(request, restarts=2, check=1)
  rows = trials.run(case, 'linear', SIZE, more, case.truth)['rows']
  for row, fit in zip(rows, fits, strict=True):
    assert row['objective'] >= float(fit.objective_T) - 1e-12
    assert row['restart'] in {0, 1}
  assert [('check' in row) for row in rows] == [True, False, False, False]
  assert np.isfinite(rows[0]['check']['more_log_likelihood'])


def test_convergence_is_judged(fitted):
  """A trial that stops early has converged; one that may not go on has not."""
  _, request, _, fits = fitted
  flags = [bool(fit.converged_T) for fit in fits]
  counts = [int(fit.iterations_T) for fit in fits]
  assert len(set(flags)) == 2, 'the limit is meant to stop some of them'
  for converged, count in zip(flags, counts, strict=True):
    assert converged or count >= request.em.iterations


def test_a_trial_without_a_finite_likelihood_is_named(fitted):
  case, request, prepared, _ = fitted
  prepared[1].sample.y_N[3] = np.nan
  try:
    fits = trials.by_em(case, prepared, request)
  finally:
    prepared[1].sample.y_N[3] = 0.0
  rows = [
    trials.describe(case, trial, fit, case.truth)
    for trial, fit in zip(prepared, fits, strict=True)
  ]
  assert [trials.FAILED in row for row in rows] == [False, True, False, False]
  assert rows[1][trials.FAILED] == trials.NON_FINITE
  assert not rows[1]['converged']
  assert rows[0]['distance'] > 0


def test_the_better_restart_of_each_trial_is_kept():
  fits = lambda objective, restart: em.Fits(
    params={'a': np.array([[1.0], [2.0], [3.0]]) + 10 * restart},
    objective_T=np.array(objective),
    gradient_T=np.zeros(3),
    iterations_T=np.zeros(3),
    converged_T=np.ones(3, bool),
    restart_T=np.full(3, restart),
  )
  best = trials.better(fits([1.0, np.nan, 3.0], 0), fits([2.0, 0.0, np.nan], 1))
  np.testing.assert_array_equal(best.restart_T, [1, 1, 0])
  np.testing.assert_array_equal(best.params['a'][:, 0], [11, 12, 3])


def test_least_squares_finds_the_regression_without_noise():
  """A model of the true size has a residual of zero at the truth alone."""
  truth = truths.REGRESSIONS['sigmoid']
  sample = data.draw(truth, 300, rng())
  with double():
    y_N = np.asarray(truth.model.mean(truth.params, sample.x_ND))
  sample = data.Sample(sample.x_ND, y_N, sample.weight_N)
  start = starts.near_truth(truth.model, truth, sample, rng())
  fit = maximum.least_squares(truth.model, sample, [start])
  assert fit.converged
  assert -fit.objective < 1e-12
  np.testing.assert_allclose(
    fit.params.routed_EP, truth.params.routed_EP, rtol=1e-3
  )


def test_an_optimiser_without_a_start_or_a_finite_objective_says_so():
  truth = truths.REGRESSIONS['linear']
  sample = data.draw(truth, 20, rng())
  with pytest.raises(errors.InputError, match='needs a start'):
    maximum.least_squares(truth.model, sample, [])
  sample.y_N[0] = np.nan
  start = starts.near_truth(truth.model, truth, sample, rng())
  with pytest.raises(errors.InputError, match='not finite from any of 1'):
    maximum.least_squares(truth.model, sample, [start])


def test_a_regression_that_is_not_finite_fails_alone():
  case = studies.STUDIES['least_squares'].cases['linear']
  request = trials.Request(trials=2, sizes=(30,))
  prepared = [trials.prepare(case, 'x', 30, i, request) for i in range(2)]
  prepared[0].sample.y_N[0] = np.inf
  fits = trials.by_least_squares(case, prepared, request)
  rows = [
    trials.describe(case, trial, fit, case.truth)
    for trial, fit in zip(prepared, fits, strict=True)
  ]
  assert [trials.FAILED in row for row in rows] == [True, False]


@pytest.mark.parametrize('start', starts.STARTS)
@pytest.mark.parametrize('gate', GATES)
def test_every_gate_has_every_start(gate, start):
  truth = truths.CONSTANT_GATES['linear']
  num = 4
  model = Model(GATES[gate], EXPERTS['linear'], num)
  sample = data.draw(truth, 30, rng())
  params = starts.STARTS[start](model, truth, sample, rng())
  shapes = {name: np.shape(leaf) for name, leaf in params.gate.items()}
  assert shapes == model.gate.shapes(num, 1)
  assert params.routed_EP.shape == (num, 2)


def test_a_start_near_the_truth_approaches_it():
  """All true atoms are there, copies share their weight, noise vanishes."""
  truth = truths.SIGMOID_SPARSE
  model = studies.fitted(truth, 3, 2)
  huge = type('Huge', (), {'__len__': lambda self: 2**62})()
  params = starts.near_truth(model, truth, huge, rng())
  routed = np.sort(np.round(params.routed_EP[:, 0]))
  assert set(routed) == {-12.0, 12.0}
  weight = 1 / (1 + np.exp(-params.gate['bias']))
  assert weight.sum() == pytest.approx(1, abs=0.05)


@pytest.mark.soak
def test_a_projection_is_the_truth_where_the_model_can_express_it():
  nearest = projection.project(
    truths.SIGMOID_DENSE.model, truths.SIGMOID_DENSE, num_starts=2
  )
  assert nearest.divergence == pytest.approx(0, abs=1e-6)
