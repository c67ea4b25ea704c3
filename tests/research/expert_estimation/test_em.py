"""EM and SciPy's optimisers: steps, likelihoods, and one against the other."""

import dataclasses
import functools

import jax
import jax.flatten_util
import numpy as np
import pytest
import scipy.optimize

from moejax.core import errors
from moejax.research.expert_estimation import (
  blocks,
  data,
  em,
  maximum,
  projection,
  starts,
  studies,
  sums,
  trials,
  truths,
)
from moejax.research.expert_estimation.experts import EXPERTS
from moejax.research.expert_estimation.gates import GATES
from moejax.research.expert_estimation.model import Model, double

SIZE = 200
SETTINGS = em.Settings()


def rng(seed=5):
  return np.random.default_rng(seed)


@functools.cache
def compiled_step(model):
  """One iteration of plain EM and the likelihood before it."""

  @jax.jit
  def run(params, x_ND, y_N, weight_N):
    total = sums.of(model, params, x_ND, y_N, weight_N)
    iteration = sums.improved(
      params, total, SETTINGS.least_variance, SETTINGS.largest_gate
    )
    return sums.rebuilder(model)(iteration.plain_V), total.value

  return run


@functools.cache
def compiled_iteration(model):
  """One iteration of EM of one trial, and the likelihood by the model."""

  @jax.jit
  def run(state, samples):
    return em.iterate(model, SETTINGS, 2, state, samples)

  value = jax.jit(functools.partial(em.log_likelihood, model))
  return run, value


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
    pytest.param(
      name, marks=() if name == 'sigmoid_dense' else pytest.mark.soak
    )
    for name in MONOTONE
  ],
)
def test_the_likelihood_never_falls(name):
  """From a start that knows nothing, where steps are large.

  The likelihood that EM keeps is that of the best parameters, by the model.
  """
  case = MONOTONE[name]
  sample = data.draw(case.truth, SIZE, rng())
  start = starts.blind(case.model, case.truth, sample, rng())
  one = lambda leaf: np.asarray(leaf)[None]
  values = []
  with double():
    samples = blocks.of(*map(one, observed(sample)))
    state = em.begin(
      case.model, SETTINGS, jax.tree.map(one, start), np.ones(1, bool)
    )
    run, value = compiled_iteration(case.model)
    for _ in range(60):
      state = run(state, samples)
      best = sums.rebuilder(case.model)(state.best_TV[0])
      values.append(float(value(best, *observed(sample))))
      assert values[-1] == pytest.approx(float(state.value_T[0]), rel=1e-12)
  assert np.all(np.isfinite(values))
  assert values[-1] > values[0] + 0.1
  assert np.min(np.diff(values)) > -1e-12


DERIVED = {
  'sparse': studies.SIGMOID['sigmoid_sparse'],
  'hierarchy': studies.STUDIES['hierarchical'].cases['laplace_softmax'],
}


@pytest.mark.parametrize('name', DERIVED)
def test_scores_are_derivatives_of_the_log_density(name):
  """Their mean and their products, against automatic differentiation."""
  case = DERIVED[name]
  sample = data.draw(case.truth, 7, rng())
  start = starts.near_truth(case.model, case.truth, sample, rng())
  weight_N = rng().dirichlet(np.ones(7))
  with double():
    rebuild = sums.rebuilder(case.model)
    found = jax.jit(functools.partial(sums.of, case.model))(
      start, sample.x_ND, sample.y_N, weight_N
    )
    log_density = lambda flat_V: case.model.log_density(
      rebuild(flat_V), sample.x_ND, sample.y_N
    )
    score_NV = np.array(jax.jit(jax.jacrev(log_density))(sums.flat(start)))
  pinned = dict(zip(['gate'], [case.model.gate.pinned(3, 1)], strict=True))
  if name == 'sparse':
    mask = jax.tree.map(lambda leaf: np.zeros(leaf.shape, bool), start)
    mask = dataclasses.replace(mask, **pinned)
    mask_V = np.concatenate([np.ravel(m) for m in jax.tree.leaves(mask)])
    assert mask_V.sum() == 2
    assert np.all(score_NV[:, mask_V] != 0)
    score_NV[:, mask_V] = 0
  np.testing.assert_allclose(
    found.gradient_V, weight_N @ score_NV, rtol=1e-7, atol=1e-9
  )
  np.testing.assert_allclose(
    found.scores_VV,
    (weight_N[:, None] * score_NV).T @ score_NV,
    rtol=1e-7,
    atol=1e-9,
  )


def test_a_step_by_hand():
  """Information diag(2, 4), gradient (1, 1), damping 1 in units of 1 and 2."""
  total = sums.Sums(0.0, np.ones(2), np.diag([2.0, 4.0]), None, None, None)
  units = np.array([1.0, 2.0])
  with double():
    step, promised = sums.scored(total, units, np.array([True, True]), 1.0)
    np.testing.assert_allclose(step, [1 / 3, 1 / 6], rtol=1e-9)
    # 1/3 + 1/6 less half of 2 / 9 + 4 / 36.
    assert float(promised) == pytest.approx(1 / 2 - 0.5 * (2 / 9 + 4 / 36))
    step, promised = sums.scored(total, units, np.array([True, False]), 1.0)
    np.testing.assert_allclose(step, [1 / 3, 0], atol=1e-12)
    assert float(promised) == pytest.approx(1 / 3 - 1 / 9)


@pytest.mark.soak
def test_sums_of_blocks_are_those_of_the_whole_sample():
  """Of trials that go on; room for more trials and samples adds nothing."""
  truth = truths.CONSTANT_GATES['linear']
  num = blocks.ROWS + 44
  samples = [data.draw(truth, num, rng(seed)) for seed in range(3)]
  begins = [
    starts.near_truth(truth.model, truth, sample, rng(seed))
    for seed, sample in enumerate(samples)
  ]
  trials_of = lambda *leaves: np.stack(leaves)
  with double():
    whole = jax.jit(functools.partial(sums.of, truth.model))
    wanted = [
      whole(begin, *observed(sample))
      for begin, sample in zip(begins, samples, strict=True)
    ]
    point_TV = np.stack([sums.flat(begin) for begin in begins])
    stored = blocks.of(
      *map(trials_of, *map(observed, samples)), room=(4, 2 * num)
    )
    found = jax.jit(functools.partial(blocks.totals, truth.model, 3))(
      np.concatenate([point_TV, point_TV[:1]]),
      np.array([True, False, True, False]),
      stored,
    )
  for trial in (0, 2):
    for one, other in zip(
      jax.tree.leaves(found), jax.tree.leaves(wanted[trial]), strict=True
    ):
      np.testing.assert_allclose(one[trial], other, rtol=1e-9, atol=1e-12)
  for leaf in jax.tree.leaves(found):
    assert not np.any(leaf[1])
    assert not np.any(leaf[3])


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
  value = jax.jit(lambda weights: (share_NE * model.gate(weights, x_ND)).sum())

  @jax.jit
  def improve(weights):
    log_gate_EN, slope_GEN = sums.log_gates(model, weights, x_ND)
    information_GG = sums.of_gate(log_gate_EN, slope_GEN, share_NE.T)
    slope_G = jax.numpy.einsum('gen,ne->g', slope_GEN, share_NE)
    flat_G, rebuild = jax.flatten_util.ravel_pytree(weights)
    return rebuild(flat_G + sums.solve(information_GG, slope_G))

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
    trials.prepare(case, 'linear', SIZE, i, request, case.truth)
    for i in range(4)
  ]
  return case, request, prepared, trials.by_em(case, prepared, request)


@pytest.mark.soak
def test_em_is_never_far_below_another_optimiser(fitted):
  """L-BFGS-B from the same start reaches EM's likelihood, or another one's.

  Both climb from one start, and may reach different maxima; that EM's is lower
  by more than a few units in both trials would be an error of EM. From the end
  of a trial that has converged there is nothing to be found.
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


@pytest.mark.soak
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
  prepared = [
    trials.prepare(case, 'x', 30, i, request, case.truth) for i in range(2)
  ]
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


@pytest.mark.soak
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
