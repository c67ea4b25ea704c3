"""Noisy top-k: the worked example, and the load against drawing again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.core import config_tree, errors
from moejax.moe.routers import noise, noisy_top_k
from moejax.moe.routers.noisy_top_k import NoisyTopK

LOGITS_TE = np.array([
  [2.0, 1.0, 0.0, -1.0],
  [0.0, 1.0, 2.0, 1.5],
  [1.0, 1.5, 0.5, 0.0],
])
NORMAL_TE = np.array([
  [0.5, -0.5, 1.0, 0.0],
  [-1.0, 0.5, 0.0, 1.0],
  [0.2, -0.3, 0.1, 0.4],
])
KEY = jax.random.key(3)
SHAZEER = NoisyTopK(noise=noisy_top_k.Learned(floor=0.0))
V_MOE = NoisyTopK(noise=noisy_top_k.Fixed())


def given(logits_TE=LOGITS_TE, noise_TE=None, key=KEY, **more):
  if noise_TE is None:
    noise_TE = np.zeros(np.shape(logits_TE), np.float32)
  extra = {'noise': jnp.asarray(noise_TE)}
  return tiny.router_input(logits_TE, key=key, extra_scores=extra, **more)


def route(router, inputs):
  """Compiled anew, since the noise may be that of the worked example."""
  return jax.device_get(jax.jit(lambda inputs: router(inputs))(inputs))


@pytest.fixture
def known_noise(monkeypatch):
  """The normal numbers of the worked example in place of drawn ones."""
  draw = lambda given, num, salt=0: jnp.asarray(NORMAL_TE)
  monkeypatch.setattr(noise, 'normal', draw)


def squared_variation(sum_E):
  return sum_E.var() / sum_E.mean() ** 2


@pytest.mark.usefixtures('known_noise')
def test_worked_example():
  """Deviation softplus(0) = ln 2; token 0 takes expert 2 in place of 1."""
  routing = route(SHAZEER, given())
  np.testing.assert_array_equal(routing.expert_A, [0, 3, 1, 2, 2, 0])
  np.testing.assert_allclose(
    routing.weight_A,
    [0.8394, 0.5481, 0.5383, 0.1606, 0.4519, 0.4617],
    atol=6e-5,
  )
  gate_TE = np.asarray(routing.extra['gate_TE'])
  np.testing.assert_allclose(
    gate_TE,
    [[0.8394, 0, 0.1606, 0], [0, 0, 0.4519, 0.5481], [0.4617, 0.5383, 0, 0]],
    atol=6e-5,
  )
  load_TE = np.asarray(routing.extra['load_TE'])
  np.testing.assert_allclose(
    load_TE,
    [
      [0.9740, 0.6710, 0.1729, 0.0073],
      [0.0020, 0.0746, 0.8271, 0.5876],
      [0.7328, 0.9103, 0.1784, 0.0502],
    ],
    atol=6e-5,
  )
  importance_E, load_E = gate_TE.sum(axis=0), load_TE.sum(axis=0)
  assert abs(squared_variation(importance_E) - 0.181403) < 1e-6
  assert abs(squared_variation(load_E) - 0.109575) < 1e-6


@pytest.mark.usefixtures('known_noise')
def test_worked_example_of_v_moe():
  """Deviation 1/4: no choice changes; gates are of the softmax over all."""
  routing = route(V_MOE, given())
  np.testing.assert_array_equal(routing.expert_A, [0, 2, 1, 1, 3, 0])
  mean_E = np.asarray(routing.extra['load_TE']).mean(axis=0)
  np.testing.assert_allclose(
    mean_E, [0.4736, 0.5523, 0.2852, 0.0529], atol=6e-5
  )
  assert abs(squared_variation(mean_E) - 0.318979) < 1e-6
  importance_E = np.asarray(routing.extra['gate_TE']).sum(axis=0)
  assert abs(squared_variation(importance_E) - 0.078649) < 1e-6
  noisy_TE = np.exp(LOGITS_TE + NORMAL_TE / 4)
  prob_TE = noisy_TE / noisy_TE.sum(axis=1, keepdims=True)
  np.testing.assert_allclose(
    np.asarray(routing.weight_A).reshape(2, 3),
    np.sort(prob_TE, axis=1)[:, :-3:-1].T,
    rtol=1e-5,
  )


@pytest.mark.parametrize('bias_E', [None, [0.5, -0.5, 0.0, 1.0, 0.0]])
@pytest.mark.parametrize('k', [1, 2, 4])
def test_load_is_the_chance_if_an_experts_own_noise_is_drawn_again(k, bias_E):
  """Others' noise stays. 20,000 draws for each expert, four deviations."""
  rng = np.random.default_rng(k)
  E, num = 5, 20_000
  logits_TE = rng.normal(size=(2, E)).astype(np.float32)
  noise_TE = rng.normal(size=(2, E)).astype(np.float32)
  more = {}
  if bias_E is not None:
    more = {'selection_bias_E': jnp.asarray(bias_E)}
  bias_E = np.zeros(E) if bias_E is None else np.array(bias_E)
  seen = given(logits_TE, noise_TE, **more)
  routing = route(NoisyTopK(k=k), seen)
  std_TE = np.log1p(np.exp(noise_TE)) + 1e-2
  noisy_TE = logits_TE + std_TE * noise.normal(seen, E) + bias_E
  for t in range(2):
    # The noise that was drawn decides on who is chosen.
    chosen = np.asarray(routing.expert_A).reshape(k, 2)[:, t]
    assert chosen.tolist() == np.argsort(-noisy_TE[t])[:k].tolist()
    for e in range(E):
      again_N = rng.normal(size=num) * std_TE[t, e] + logits_TE[t, e]
      others = np.sort(np.delete(noisy_TE[t], e))[::-1]
      inside = np.mean(again_N + bias_E[e] > others[k - 1])
      load = float(routing.extra['load_TE'][t, e])
      spread = np.sqrt(load * (1 - load) / num)
      assert abs(load - inside) < 4 * spread + 1e-4


@pytest.mark.parametrize('router', [SHAZEER, V_MOE, NoisyTopK(k=3)], ids=str)
def test_evaluation_has_no_noise_and_load_counts(router):
  routing = route(router, given(key=None))
  k = router.k
  want_TK = np.argsort(-LOGITS_TE, axis=1, kind='stable')[:, :k]
  expert_TK = np.asarray(routing.expert_A).reshape(k, 3).T
  np.testing.assert_array_equal(expert_TK, want_TK)
  load_TE = (want_TK[:, :, None] == np.arange(4)).any(axis=1)
  np.testing.assert_array_equal(routing.extra['load_TE'], load_TE)


def test_gates_of_shazeer_sum_to_one_and_are_importance():
  routing = route(SHAZEER, given(key=None))
  np.testing.assert_allclose(
    routing.weight_A,
    [0.7311, 0.6225, 0.6225, 0.2689, 0.3775, 0.3775],
    atol=6e-5,
  )
  gate_TE = routing.extra['gate_TE']
  np.testing.assert_allclose(gate_TE.sum(axis=1), 1, rtol=1e-6)


def test_all_experts_chosen_is_a_load_of_one():
  routing = route(NoisyTopK(k=4), given())
  np.testing.assert_array_equal(routing.extra['load_TE'], 1)


def test_deviation_is_softplus_and_the_released_hundredth():
  noise_TE = np.array([[0.0, 5.0, -5.0]], np.float32)
  std_TE = NoisyTopK().noise.std(given([[0, 0, 0]], noise_TE))
  np.testing.assert_allclose(
    std_TE, [[0.6931 + 0.01, 5.0067 + 0.01, 0.0067 + 0.01]], atol=6e-5
  )


@pytest.mark.parametrize(
  ('router', 'std'), [(NoisyTopK(), np.log(2) + 0.01), (V_MOE, 0.2)]
)
def test_noise_is_normal_of_that_deviation(router, std):
  """The chance that the second of two close experts is first."""
  num, gap = 4000, 0.3
  logits_TE = np.tile([gap, 0, -90, -90, -90], (num, 1))
  routing = route(dataclasses.replace(router, k=1), given(logits_TE))
  turned = (np.asarray(routing.expert_A) == 1).mean()
  chance = float(jax.scipy.stats.norm.cdf(-gap / (std * np.sqrt(2))))
  assert abs(turned - chance) < 4 * np.sqrt(chance * (1 - chance) / num)


def test_the_noise_scorer_starts_at_zero_and_learns():
  scorer, num = NoisyTopK().extra_scorers(7)['noise']
  assert num == 7
  weights = scorer.init(KEY, 5, num, 0.02)
  np.testing.assert_array_equal(weights['w_DE'][...], np.zeros((5, 7)))
  assert V_MOE.extra_scorers(7) == {}

  def losses(noise_TE):
    routing = SHAZEER(given(noise_TE=noise_TE))
    gate_E = routing.extra['gate_TE'].sum(axis=0)
    return squared_variation(gate_E), routing.extra['load_TE'][:, 0].sum()

  for loss in (0, 1):
    slope_TE = jax.jit(jax.grad(lambda x, i=loss: losses(x)[i]))(
      jnp.zeros((3, 4))
    )
    assert np.isfinite(slope_TE).all()
    assert (slope_TE != 0).any()


@pytest.mark.parametrize('low', [-30.0, -200.0])
def test_gradients_are_finite_where_noise_vanishes(low):
  def total(logits_TE, noise_TE):
    routing = SHAZEER(given(logits_TE, noise_TE))
    weigh = jnp.arange(1, 13).reshape(3, 4)
    parts = (routing.extra['load_TE'], routing.extra['gate_TE'])
    return sum(jnp.vdot(weigh, x) for x in parts) + routing.weight_A[0]

  ties_TE = np.array([[0.0, 0, 0, 0], [1, 1, 0, 0], [100, -100, 1e30, 0]])
  slopes = jax.jit(jax.grad(total, argnums=(0, 1)))(
    jnp.asarray(ties_TE, jnp.float32), jnp.full((3, 4), low)
  )
  assert all(np.isfinite(x).all() for x in slopes)


@pytest.mark.parametrize('router', [SHAZEER, V_MOE], ids=str)
def test_padding_is_in_neither_importance_nor_load(router):
  routing = route(router, given(valid_T=[True, False, True]))
  for name in ('gate_TE', 'load_TE'):
    total_T = routing.extra[name].sum(axis=1)
    np.testing.assert_array_equal(total_T > 0, [True, False, True])


def test_a_bias_moves_the_choice_but_not_the_gates():
  bias_E = jnp.array([0, 0, 0, 9.0])
  routing = route(SHAZEER, given(key=None, selection_bias_E=bias_E))
  np.testing.assert_array_equal(routing.expert_A, [3, 3, 3, 0, 2, 1])
  # e^-1 / (e^-1 + e^2), and so on
  np.testing.assert_allclose(
    routing.weight_A[:3], [0.0474, 0.3775, 0.1824], atol=6e-5
  )


def test_noise_is_chosen_by_name():
  router = config_tree.override(NoisyTopK(), 'noise.name', 'fixed')
  assert router == V_MOE


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: NoisyTopK(k=5).check(4), 'k=5 experts per token, but there are 4'),
  ],
)
def test_bad_fields(make, message):
  with pytest.raises(errors.InputError, match=f'router.{message}'):
    make()


def test_a_laptops_router_has_two_experts():
  assert NoisyTopK(k=4).shrunk(8).k == 2
  NoisyTopK(k=4).shrunk(1).check(1)
