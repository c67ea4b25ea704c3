"""Gates and densities against the routers of moejax.moe, and plain loops."""

import math

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats

from moejax.core import errors
from moejax.moe import contract
from moejax.moe.routers import ROUTERS
from moejax.moe.scorers import SCORERS
from moejax.research.expert_estimation import gates, model
from moejax.research.expert_estimation.experts import EXPERTS
from moejax.research.expert_estimation.gates import GATES

NUM, WIDTH, SAMPLES = 5, 3, 40


@pytest.fixture(scope='module')
def inputs():
  rng = np.random.default_rng(0)
  return rng.standard_normal((SAMPLES, WIDTH))


def weights_of(gate, num=NUM, width=WIDTH, seed=1):
  rng = np.random.default_rng(seed)
  shapes = gate.shapes(num, width)
  return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def routed(router, weights, x_ND, scorer='linear', extra=None):
  """The weights [N, E] that a router of the package gives all experts."""
  make = lambda name: SCORERS[name](bias=True)
  score = lambda name, slope, bias: np.asarray(
    jax.jit(gates.score, static_argnums=0)(make(name), slope, bias, x_ND),
    np.float32,
  )
  num = len(x_ND)
  logit_TE = score(scorer, weights['slope'], weights['bias'])
  extras = {}
  if extra:
    extras['outer'] = score(
      extra, weights['outer_slope'], weights['outer_bias']
    )
  routing = jax.jit(router)(
    contract.RouterInput(
      logits_TE=logit_TE,
      valid_T=np.ones(num, bool),
      index_T=np.arange(num, dtype=np.int32),
      key=None,
      row_length=num,
      extra_scores=extras,
    )
  )
  gate_TE = np.zeros(logit_TE.shape)
  gate_TE[np.asarray(routing.token_A), np.asarray(routing.expert_A)] = (
    np.asarray(routing.weight_A)
  )
  return gate_TE


TOP_K = ROUTERS['top_k']
# The router of the package that has the gate's mathematics.
SAME = {
  'softmax': (TOP_K(k=NUM), 'linear', None),
  'normalised_sigmoid': (
    TOP_K(k=NUM, score='sigmoid', renormalise=True),
    'linear',
    None,
  ),
  'laplace': (TOP_K(k=NUM), 'laplace', None),
  'top_2': (TOP_K(k=2, renormalise=True), 'linear', None),
  'top_3': (TOP_K(k=3, after=True), 'linear', None),
}


@pytest.mark.parametrize('name', SAME)
def test_a_gate_is_that_of_the_router(name, inputs):
  router, scorer, extra = SAME[name]
  weights = weights_of(GATES[name])
  with model.double():
    found = np.exp(jax.jit(GATES[name])(weights, inputs))
  wanted = routed(router, weights, inputs, scorer, extra)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('outer', ['softmax', 'laplace'])
@pytest.mark.parametrize('inner', ['softmax', 'laplace'])
def test_a_hierarchy_is_that_of_the_router(outer, inner, inputs):
  gate = GATES[f'{outer}_{inner}']
  num = 4  # in groups of equal size the router can keep all experts
  weights = weights_of(gate, num)
  scorer = {'softmax': 'linear', 'laplace': 'laplace'}
  router = ROUTERS['hierarchical'](groups=2, k_outer=2, k_inner=2)
  with model.double():
    found = np.exp(jax.jit(gate)(weights, inputs))
  wanted = routed(router, weights, inputs, scorer[inner], scorer[outer])
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', GATES)
def test_the_gates_of_an_input_are_of_sum_1(name, inputs):
  with model.double():
    found = np.exp(jax.jit(GATES[name])(weights_of(GATES[name]), inputs))
  assert found.dtype == np.float64
  np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)


def test_gates_by_hand():
  """One input, two experts: logits 1 and 3."""
  weights = {'slope': [[0.5], [1.5]], 'bias': [0.0, 0.0]}
  weights = {key: np.array(value) for key, value in weights.items()}
  x = np.array([[2.0]])
  sigmoid = lambda z: 1 / (1 + math.exp(-z))
  wanted = {
    'softmax': 1 / (1 + math.exp(2)),
    'normalised_sigmoid': sigmoid(1) / (sigmoid(1) + sigmoid(3)),
    # Temperature 2: logits 1/2 and 3/2.
    'dense_to_sparse': 1 / (1 + math.exp(1)),
    # Distances 3/2 and 1/2 from the centres.
    'laplace': 1 / (1 + math.exp(1)),
    'top_1': 0.0,
  }
  for name, first in wanted.items():
    extra = {}
    if name == 'dense_to_sparse':
      extra = {'log_temperature': np.log(2.0)}
    with model.double():
      found = np.exp(jax.jit(GATES[name])(weights | extra, x))
    np.testing.assert_allclose(found, [[first, 1 - first]], atol=1e-9)


def test_experts_by_hand():
  x = np.array([[2.0]])
  gelu = lambda z: z * scipy.stats.norm.cdf(z)
  wanted = {
    'linear': ([3, 1], 7),
    'relu': ([3, 1, -2], -14),
    'relu_without_offset': ([-3, -2], 0),
    'gelu': ([3, 1, -2], -2 * gelu(7)),
    'sigmoid': ([0.5, 1, -2], -2 / (1 + math.exp(-2))),
    'tanh': ([0.5, 1, -2], -2 * math.tanh(2)),
    'quadratic': ([3, 1], 49),
    'cubic': ([-3, 1], -125),
    'input_free': ([5], 5),
  }
  assert wanted.keys() == EXPERTS.keys()
  for name, (eta, mean) in wanted.items():
    with model.double():
      found = jax.jit(EXPERTS[name])(np.array(eta, float), x)
    np.testing.assert_allclose(found, [mean], rtol=1e-6, atol=1e-12)


def test_inputs_of_several_dimensions():
  eta, x = np.array([1.0, -2.0, 0.5, 3.0]), np.array([[2.0, 1.0]])
  # 3 relu(1 * 2 - 2 * 1 + 0.5)
  with model.double():
    np.testing.assert_allclose(EXPERTS['relu'](eta, x), [1.5])


@pytest.fixture(scope='module')
def mixture():
  """A model with two shared and three routed experts, and parameters."""
  form = model.Model(
    GATES['normalised_sigmoid'], EXPERTS['tanh'], 3, EXPERTS['linear'], 2
  )
  rng = np.random.default_rng(3)
  draw = rng.standard_normal
  return form, model.Params(
    gate={'slope': draw((3, 1)), 'bias': draw(3)},
    routed_EP=draw((3, 3)),
    log_variance_E=draw(3) / 2,
    shared_SQ=draw((2, 2)),
    shared_log_variance_S=draw(2) / 2,
    shared_logit_S=draw(2),
  )


def test_a_density_is_the_sum_over_its_parts(mixture):
  """Against loops over SciPy's normal densities."""
  form, params = mixture
  rng = np.random.default_rng(4)
  x_ND, y_N = rng.standard_normal((20, 1)), rng.standard_normal(20)
  with model.double():
    found = jax.jit(form.log_density)(params, x_ND, y_N)
  omega = scipy.special.softmax(params.shared_logit_S)
  for (x,), y, log_density in zip(x_ND, y_N, found, strict=True):
    density = 0.0
    for i in range(2):
      slope, offset = params.shared_SQ[i]
      scale = math.exp(params.shared_log_variance_S[i] / 2)
      density += (
        0.5 * omega[i] * scipy.stats.norm.pdf(y, slope * x + offset, scale)
      )
    score = scipy.special.expit(
      params.gate['slope'][:, 0] * x + params.gate['bias']
    )
    for i in range(3):
      inner, offset, outer = params.routed_EP[i]
      mean = outer * math.tanh(inner * x + offset)
      scale = math.exp(params.log_variance_E[i] / 2)
      density += (
        0.5 * score[i] / score.sum() * scipy.stats.norm.pdf(y, mean, scale)
      )
    assert float(log_density) == pytest.approx(math.log(density), rel=1e-10)


def test_the_mean_is_that_of_the_density(mixture):
  form, params = mixture
  y = np.linspace(-30, 30, 6001)
  x = np.full((len(y), 1), 0.7)
  with model.double():
    density = np.exp(jax.jit(form.log_density)(params, x, y))
    mean = float(jax.jit(form.mean)(params, x[:1])[0])
  width = y[1] - y[0]
  assert density.sum() * width == pytest.approx(1, rel=1e-6)
  assert (density * y).sum() * width == pytest.approx(mean, rel=1e-6)


def test_the_parameters_are_counted(mixture):
  form, params = mixture
  leaves = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
  assert form.num_params == leaves == 6 + 9 + 3 + 4 + 2 + 2


def test_models_that_cannot_be_say_why():
  softmax, linear = GATES['softmax'], EXPERTS['linear']
  with pytest.raises(errors.InputError, match='needs a routed expert'):
    model.Model(softmax, linear, 0)
  with pytest.raises(errors.InputError, match='give both or neither'):
    model.Model(softmax, linear, 2, linear, 0)
  with pytest.raises(errors.InputError, match='keeps k=3 experts'):
    model.Model(GATES['top_3'], linear, 2)
  with pytest.raises(errors.InputError, match='of 2 groups needs as many'):
    model.Model(GATES['softmax_laplace'], linear, 1)
