"""Scorers: worked examples, starts, and what holds for all of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import references, tiny

from moejax.moe.routers.top_k import TopK
from moejax.moe.scorers import (
  SCORERS,
  Cosine,
  Hyper,
  Laplace,
  Linear,
  PerturbedCosine,
  starts,
)
from moejax.moe.scorers.base import ScorerInput
from moejax.parallel import rules

KEY = jax.random.key(1)
RNG = np.random.default_rng(0)
D, E = 8, 5

# Tokens and experts of the worked examples, as points of the plane.
X_TD = np.array([[1.0, 0], [1, 1], [0, 2]], np.float32)
W_ED = np.array([[1.0, 0], [0, 1], [-1, 0], [1, -1]], np.float32)
EYE = np.eye(2, dtype=np.float32)


@functools.partial(jax.jit, static_argnums=0)
def score(scorer, w, x_TD=X_TD):
  w = {name: jnp.asarray(v, jnp.float32) for name, v in w.items()}
  x_TD = jnp.asarray(x_TD, jnp.float32)
  token_T = jnp.zeros(len(x_TD), jnp.int32)
  return scorer(w, ScorerInput(x_TD, token_T))


@functools.cache
def started(scorer, width=D, num=E, std=0.02):
  params = scorer.init(KEY, width, num, std)
  return {name: np.asarray(p[...]) for name, p in params.items()}


def softmax(x_TE):
  return np.array([references.softmax(x_E) for x_E in np.asarray(x_TE)])


EACH = pytest.mark.parametrize(
  'name',
  sorted(name for name, make in SCORERS.items() if not make().reads_experts),
)


@EACH
def test_weights_name_their_dimensions(name):
  for path, param in SCORERS[name]().init(KEY, D, E, 0.02).items():
    assert isinstance(param, nnx.Param)
    axes = param.get_metadata()['axes']
    assert len(axes) == param[...].ndim, path
    assert set(axes) <= set(rules.RULES)
    assert param[...].dtype == jnp.float32


@pytest.mark.parametrize('num', [1, E, 12])
@pytest.mark.parametrize(
  'name', ['cosine', 'hyper', 'laplace', 'linear', 'perturbed_cosine']
)
def test_a_score_for_each_expert_by_the_token_alone(name, num):
  """Fewer experts than dimensions, and more; a token's neighbours are of no
  matter.
  """
  scorer = SCORERS[name]()
  w = started(scorer, D, num)
  x_TD = RNG.normal(size=(6, D))
  logits_TE = np.asarray(score(scorer, w, x_TD))
  assert logits_TE.shape == (6, num)
  assert logits_TE.dtype == np.float32
  assert num == 1 or len(np.unique(logits_TE)) == 6 * num
  np.testing.assert_allclose(
    score(scorer, w, x_TD[2:4]), logits_TE[2:4], rtol=1e-5, atol=1e-6
  )


@EACH
def test_gradients_are_finite_also_at_zero(name):
  """A token of zeros, and weights of zeros, by token and by weights."""
  scorer = SCORERS[name]()
  w = started(scorer)
  zeros = {name: np.zeros_like(v) for name, v in w.items()}
  x_TD = RNG.normal(size=(3, D)).astype(np.float32)
  x_TD[1] = 0
  pull_TE = RNG.normal(size=(3, E)).astype(np.float32)
  pulled = lambda w, x_TD: jnp.vdot(score(scorer, w, x_TD), pull_TE)
  run = jax.jit(jax.value_and_grad(pulled, argnums=(0, 1)))
  for weights in (w, zeros):
    value, slopes = run(weights, x_TD)
    assert np.isfinite(value)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slopes))


@EACH
def test_starts_under_jit_and_over_layers(name):
  scorer = SCORERS[name]()

  def make(keys):
    init = lambda key: {
      k: p[...] for k, p in scorer.init(key, D, E, 0.02).items()
    }
    return jax.vmap(init)(keys)

  shapes = jax.eval_shape(make, jax.random.split(KEY, 3))
  for path, leaf in started(scorer).items():
    assert shapes[path].shape == (3, *leaf.shape)


def test_linear_is_a_product_and_a_bias():
  scorer = Linear(bias=True)
  w = started(scorer)
  np.testing.assert_array_equal(w['b_E'], 0)
  b_E = RNG.normal(size=E)
  x_TD = RNG.normal(size=(4, D))
  np.testing.assert_allclose(
    score(scorer, {**w, 'b_E': b_E}, x_TD), x_TD @ w['w_DE'] + b_E, rtol=1e-4
  )
  assert set(started(Linear())) == {'w_DE'}


def test_linear_starts_as_ever():
  want_DE = 0.02 * jax.random.normal(KEY, (D, E), jnp.float32)
  np.testing.assert_array_equal(started(Linear())['w_DE'], want_DE)


def test_a_linear_scorer_may_have_a_deviation_of_its_own():
  for start in ('model', 'equal_norm'):
    w_DE = started(Linear(start=start, std=0.1), 100, 200)['w_DE']
    np.testing.assert_allclose(np.std(w_DE), 0.1, rtol=0.02)


@pytest.mark.parametrize(
  ('name', 'deviation'),
  [
    ('model', 0.02),
    ('switch', np.sqrt(0.1 / 100)),
    ('lecun', 0.1),
    ('pytorch', 0.1 / np.sqrt(3)),
    ('equal_norm', 0.02),
    ('uniform', 0.01 / np.sqrt(3)),
    ('zeros', 0.0),
  ],
)
def test_starts_have_their_deviation(name, deviation):
  """20,000 numbers, so within 2%."""
  w_DE = starts.STARTS[name](KEY, 100, 200, 0.02)
  assert w_DE.shape == (100, 200)
  np.testing.assert_allclose(np.std(w_DE), deviation, rtol=0.02)


def test_starts_of_their_own_kind():
  # Cut off at two deviations of the normal, which is then .8796 as wide.
  cut_DE = np.asarray(starts.switch(KEY, 100, 200, 0.02))
  edge = 2 * np.sqrt(0.1 / 100) / 0.87962566
  assert 0.99 * edge < np.abs(cut_DE).max() <= edge
  norm_E = np.linalg.norm(starts.equal_norm(KEY, 100, 200, 0.02), axis=0)
  np.testing.assert_allclose(norm_E, 0.2, rtol=1e-5)
  for width, num in ((8, 5), (5, 8)):
    w_DE = np.asarray(starts.orthogonal(KEY, width, num, 0.02))
    small = w_DE if num < width else w_DE.T
    np.testing.assert_allclose(
      small.T @ small, 0.01 * np.eye(min(width, num)), atol=1e-6
    )


FIXED = {'w_DZ': EYE, 'w_EZ': W_ED}
COSINES = [
  [1, 0, -1, 0.7071],
  [0.7071, 0.7071, -0.7071, 0],
  [0, 1, 0, -0.7071],
]


def test_cosine_of_x_moe():
  logits_TE = score(Cosine(), {**FIXED, 'log_tau': np.log(0.3)})
  np.testing.assert_allclose(0.3 * logits_TE, COSINES, atol=6e-5)
  np.testing.assert_allclose(
    softmax(logits_TE),
    [
      [0.7074, 0.0252, 0.0009, 0.2665],
      [0.4754, 0.4754, 0.0043, 0.0450],
      [0.0332, 0.9305, 0.0332, 0.0031],
    ],
    atol=6e-5,
  )
  fixed = Cosine(learns_tau=False)
  np.testing.assert_allclose(score(fixed, FIXED), logits_TE, rtol=1e-6)


def test_cosine_as_torchscale_has_it():
  """Tokens as long as they are, and no temperature."""
  scorer = Cosine(normalises_tokens=False, learns_tau=False, tau=1.0)
  logits_TE = score(scorer, FIXED)
  np.testing.assert_allclose(logits_TE[2], [0, 2, 0, -1.4142], atol=6e-5)
  np.testing.assert_allclose(
    softmax(logits_TE)[2], [0.1038, 0.7671, 0.1038, 0.0252], atol=6e-5
  )


def test_cosine_as_libmoe_has_it():
  """1.5 cos / .3, softmax twice, the kept over their sum.

  Of token 1: e^.4975 and e^.4975 over their sum, whatever the rest.
  """
  scorer = Cosine(learns_tau=False, row_norm=1.5)
  logits_TE = score(scorer, FIXED)
  np.testing.assert_allclose(logits_TE, 5 * np.array(COSINES), atol=6e-4)
  router = TopK(k=2, score='double_softmax', renormalise=True)
  routing = router(tiny.router_input(logits_TE))
  once_TE = softmax(logits_TE)
  for t in range(3):
    kept = sorted(once_TE[t])[:1:-1]
    np.testing.assert_allclose(
      routing.weight_A[t::3], references.softmax(kept), rtol=1e-5
    )
    assert routing.weight_A[t] < 0.74


def test_cosine_looks_at_directions_alone():
  w = started(Cosine())
  x_TD = RNG.normal(size=(4, D))
  longer = {**w, 'w_EZ': 7 * w['w_EZ'], 'w_DZ': 3 * w['w_DZ']}
  np.testing.assert_allclose(
    score(Cosine(), longer, 100 * x_TD), score(Cosine(), w, x_TD), rtol=1e-4
  )


def test_cosine_learns_its_temperature_and_starts_as_released():
  """Half as many dimensions as experts; columns of norm .32, orthogonal."""
  w = started(Cosine(tau=0.07), num=6)
  assert (w['w_DZ'].shape, w['w_EZ'].shape) == ((D, 3), (6, 3))
  np.testing.assert_allclose(
    w['w_EZ'].T @ w['w_EZ'], 0.32**2 * np.eye(3), atol=1e-6
  )
  np.testing.assert_allclose(np.exp(w['log_tau']), 0.07, rtol=1e-6)
  assert np.abs(w['w_DZ']).max() <= 1 / np.sqrt(D)
  x_TD = RNG.normal(size=(4, D)).astype(np.float32)
  first = lambda w: score(Cosine(), w, x_TD)[0, 0]
  slope = jax.grad(first)(w)
  np.testing.assert_allclose(slope['log_tau'], -first(w), rtol=1e-5)
  assert 'log_tau' not in started(Cosine(learns_tau=False))
  assert started(Cosine(width=4), num=6)['w_EZ'].shape == (6, 4)


def test_perturbed_cosine():
  logits_TE = score(PerturbedCosine(), {'w_EZ': W_ED})
  np.testing.assert_allclose(
    logits_TE,
    [
      [0.8264, 0, -0.8264, 0.6004],
      [0.6004, 0.6004, -0.6004, 0],
      [0, 0.8658, 0, -0.6290],
    ],
    atol=6e-5,
  )
  routing = TopK(k=2, renormalise=True)(tiny.router_input(logits_TE))
  np.testing.assert_allclose(
    routing.weight_A, [0.5563, 0.5, 0.7039, 0.4437, 0.5, 0.2961], atol=6e-5
  )
  # Each constant belongs to one side: 1 / ((1 + .5) (1 + .25)).
  scorer = PerturbedCosine(tau1=0.5, tau2=0.25)
  assert abs(score(scorer, {'w_EZ': W_ED})[0, 0] - 1 / 1.875) < 1e-6
  scorer = PerturbedCosine(tau1=0.5, tau2=1.0)
  assert abs(score(scorer, {'w_EZ': W_ED})[2, 1] - 2 / 4.5) < 1e-6


def test_perturbed_cosine_may_project_and_have_a_bias():
  scorer = PerturbedCosine(width=3, bias=True)
  w = started(scorer)
  assert (w['w_DZ'].shape, w['w_EZ'].shape) == ((D, 3), (E, 3))
  x_TD = RNG.normal(size=(4, D))
  b_E = RNG.normal(size=E)
  plain_TE = score(PerturbedCosine(), {'w_EZ': w['w_EZ']}, x_TD @ w['w_DZ'])
  np.testing.assert_allclose(
    score(scorer, {**w, 'b_E': b_E}, x_TD), plain_TE + b_E, rtol=1e-4
  )


DISTANCES = [[0, 1.4142, 2, 1], [1, 1, 2.2361, 2], [2.2361, 1, 2.2361, 3.1623]]


def test_laplace_is_minus_the_distance():
  logits_TE = score(Laplace(), {'w_DE': W_ED.T})
  np.testing.assert_allclose(-logits_TE, DISTANCES, atol=6e-5)
  np.testing.assert_allclose(
    softmax(logits_TE)[0], [0.5726, 0.1392, 0.0775, 0.2107], atol=6e-5
  )
  routing = TopK(k=2, renormalise=True)(tiny.router_input(logits_TE))
  np.testing.assert_allclose(
    routing.weight_A, [0.7311, 0.5, 0.7749, 0.2689, 0.5, 0.2251], atol=6e-5
  )


def test_gaussian_is_minus_the_squared_distance():
  b_E = np.array([0.0, 1, 2, 3])
  w = {'w_DE': W_ED.T, 'b_E': b_E}
  np.testing.assert_allclose(
    score(Laplace(squared=True, bias=True), w),
    b_E - np.square(DISTANCES),
    atol=3e-4,
  )


@pytest.mark.parametrize('squared', [False, True])
def test_distances_and_their_gradients_against_differences(squared):
  """Far from the origin as well as close by."""
  x_TD = (RNG.normal(size=(6, D)) + 3).astype(np.float32)
  w_DE = (RNG.normal(size=(D, E)) + 3).astype(np.float32)
  pull_TE = RNG.normal(size=(6, E)).astype(np.float32)

  def reference(w, x_TD):
    apart_TED = x_TD[:, None] - w['w_DE'].T
    square_TE = jnp.sum(apart_TED**2, axis=-1)
    return jnp.vdot(-square_TE if squared else -(square_TE**0.5), pull_TE)

  ours = lambda w, x_TD: jnp.vdot(score(Laplace(squared), w, x_TD), pull_TE)
  got, want = (
    jax.value_and_grad(f, argnums=(0, 1))({'w_DE': w_DE}, x_TD)
    for f in (ours, reference)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    got,
    want,
  )


def test_a_token_on_an_expert_has_distance_zero_and_a_gradient():
  x_TD = 10 * RNG.normal(size=(1, 64)).astype(np.float32)
  w_DE = np.concatenate([x_TD, x_TD + 1, x_TD], axis=0).T
  ours = lambda x_TD: score(Laplace(), {'w_DE': w_DE}, x_TD)
  # Up to the root of float32's step at |x|^2, about 80^2.
  np.testing.assert_allclose(ours(x_TD), [[0, -8, 0]], atol=5e-4 * 80)
  slope_TEtd = jax.jacrev(ours)(x_TD)
  assert np.isfinite(slope_TEtd).all()
  # Of the expert that is away, the direction to it, of length 1.
  np.testing.assert_allclose(slope_TEtd[0, 1, 0], np.full(64, 1 / 8), rtol=1e-3)


def test_hyper_makes_the_matrix_from_the_embedding():
  scorer = Hyper(hidden=4)
  w = started(scorer)
  hidden_H = np.maximum(w['r_D'] @ w['w_DH'] + w['b_H'], 0)
  made_EC = (hidden_H @ w['w_HN'] + w['b_N']).reshape(E, D + 1)
  x_TD = RNG.normal(size=(3, D))
  np.testing.assert_allclose(
    score(scorer, w, x_TD),
    x_TD @ made_EC[:, :D].T + made_EC[:, D],
    rtol=1e-4,
    atol=1e-5,
  )


def test_hyper_starts_as_in_the_authors_code_and_as_in_libmoe():
  """Uniform to 1 / sqrt(16) and 1 / sqrt(64); or normal, and zero biases."""
  published = started(Hyper(hidden=64), 16, 40)
  for name, edge in (('w_DH', 1 / 4), ('w_HN', 1 / 8), ('b_N', 1 / 8)):
    x = published[name]
    assert 0.98 * edge < np.abs(x).max() <= edge
    np.testing.assert_allclose(np.std(x), edge / np.sqrt(3), rtol=0.05)
  libmoe = started(Hyper(hidden=64, start='normal'), 16, 40)
  for name in ('w_DH', 'w_HN'):
    np.testing.assert_allclose(np.std(libmoe[name]), 0.02, rtol=0.05)
    assert np.abs(libmoe[name]).max() > 0.05
  for name in ('b_H', 'b_N'):
    np.testing.assert_array_equal(libmoe[name], 0)
  for made in (published, libmoe):
    assert 0.5 < np.std(made['r_D']) < 1.5


@pytest.mark.parametrize('learns', [True, False])
def test_hyper_learns_the_embedding_alone(learns):
  """What is frozen has no gradient, and says so to the optimiser."""
  scorer = Hyper(hidden=4, learns_embedding=learns)
  x_TD = RNG.normal(size=(3, D)).astype(np.float32)
  total = lambda w: score(scorer, w, x_TD)[:, 0].sum()
  slopes = jax.grad(total)(started(scorer))
  moved = {name for name, slope in slopes.items() if (slope != 0).any()}
  assert moved == ({'r_D'} if learns else set())
  params = scorer.init(KEY, D, E, 0.02)
  for name, param in params.items():
    assert not param.get_metadata()['decays'], name
