"""Switch: one expert, its probability, and four ways of noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.core import config_tree, errors
from moejax.moe.routers import switch
from moejax.moe.routers.switch import Switch

LOGITS_TE = np.array([
  [2.0, 1.0, 0.0, -1.0],
  [0.0, 1.0, 2.0, 1.5],
  [1.0, 1.5, 0.5, 0.0],
])
KEY = jax.random.key(4)
ALL = [switch.Switch(noise=noise()) for noise in switch.NOISES.values()]


@pytest.mark.parametrize('router', ALL, ids=str)
def test_worked_example(router):
  """The largest softmax; the same for all at evaluation."""
  routing = tiny.route(router, tiny.router_input(LOGITS_TE))
  np.testing.assert_array_equal(routing.expert_A, [0, 2, 1])
  np.testing.assert_allclose(
    routing.weight_A, [0.6439, 0.4740, 0.4551], atol=6e-5
  )
  np.testing.assert_allclose(
    routing.prob_TE[0], [0.6439, 0.2369, 0.0871, 0.0321], atol=6e-5
  )
  x_TD = jnp.ones((3, 8))
  assert router.scorer_input(x_TD, jnp.arange(3), None) is x_TD
  assert (routing.per_token, router.experts_per_token) == (1, 1)


def test_the_gate_has_a_gradient():
  """d p_0 / d l_0 = p_0 (1 - p_0): divided by itself it would have none."""
  gate = lambda logits_TE: Switch()(tiny.router_input(logits_TE)).weight_A[0]
  slope_TE = jax.jit(jax.grad(gate))(jnp.asarray(LOGITS_TE))
  np.testing.assert_allclose(slope_TE[0, 0], 0.6439 * 0.3561, atol=1e-4)


def test_input_jitter_is_uniform_around_one():
  """Mean and deviation of U(.75, 1.25): epsilon / sqrt(3)."""
  x_TD = jnp.full((100, 200), 2.0)
  jitter = Switch(noise=switch.InputJitter(0.25))
  got_TD = np.asarray(jitter.scorer_input(x_TD, jnp.arange(100), KEY)) / 2
  assert 0.75 <= got_TD.min() < 0.751
  assert 1.249 < got_TD.max() <= 1.25
  spread = 0.25 / np.sqrt(3)
  assert abs(got_TD.mean() - 1) < 4 * spread / np.sqrt(got_TD.size)
  assert abs(got_TD.std() / spread - 1) < 0.02
  # Every number has noise of its own.
  assert len(np.unique(got_TD)) > 0.99 * got_TD.size


def test_input_jitter_turns_close_choices_only():
  """Experts that tie share the tokens; one ahead by more than the noise does
  not lose any.
  """
  num = 2000
  w_DE = jnp.asarray(np.repeat(np.eye(2), 8, axis=0), jnp.float32)

  def chosen(x_D):
    x_TD = jnp.tile(jnp.asarray(x_D), (num, 1))
    x_TD = Switch().scorer_input(x_TD, jnp.arange(num), KEY)
    routing = Switch()(tiny.router_input(x_TD @ w_DE, key=KEY))
    return np.asarray(routing.expert_A).mean()

  spread = 0.5 / np.sqrt(num)
  assert abs(chosen([1.0] * 16) - 0.5) < 4 * spread
  assert chosen([1.0] * 8 + [0.97] * 8) == 0
  assert 0 < chosen([1.0] * 8 + [0.999] * 8) < 0.5


@pytest.mark.parametrize('noise', [switch.InputJitter(), switch.InputDropout()])
def test_input_noise_depends_on_key_and_place_alone(noise):
  router = Switch(noise=noise)
  x_TD = jax.random.normal(KEY, (6, 5))
  index_T = jnp.arange(6)
  whole_TD = router.scorer_input(x_TD, index_T, KEY)
  half_TD = router.scorer_input(x_TD[3:], index_T[3:], KEY)
  np.testing.assert_array_equal(half_TD, whole_TD[3:])
  other_TD = router.scorer_input(x_TD, index_T, jax.random.key(5))
  assert (np.asarray(other_TD) != np.asarray(whole_TD)).any()


def test_logits_jitter_adds_to_each_logit():
  """Logits up to a constant: within epsilon of the clean ones, and spread."""
  logits_TE = np.zeros((2000, 3))
  router = Switch(noise=switch.LogitsJitter(0.5))
  routing = tiny.route(router, tiny.router_input(logits_TE, key=KEY))
  gap_T = np.log(routing.prob_TE[:, 0] / routing.prob_TE[:, 1])
  assert 0.9 < np.abs(gap_T).max() <= 1.0
  # A difference of two uniforms on (-.5, .5) has deviation 1 / sqrt(6).
  np.testing.assert_allclose(gap_T.std(), 1 / np.sqrt(6), rtol=0.06)
  best_T = np.asarray(routing.prob_TE).argmax(axis=1)
  np.testing.assert_array_equal(routing.expert_A, best_T)
  np.testing.assert_allclose(routing.weight_A, routing.prob_TE.max(axis=1))
  for expert in range(3):
    assert abs((best_T == expert).mean() - 1 / 3) < 4 * 0.472 / np.sqrt(2000)


def test_input_dropout_keeps_the_mean():
  x_TD = jnp.full((100, 100), 3.0)
  router = Switch(noise=switch.InputDropout(0.2))
  got_TD = np.asarray(router.scorer_input(x_TD, jnp.arange(100), KEY))
  np.testing.assert_allclose(np.unique(got_TD), [0, 3.75])
  assert abs((got_TD == 0).mean() - 0.2) < 4 * 0.4 / 100


@pytest.mark.parametrize('temperature', [1.0, 2.0])
def test_sampling_is_by_probability(temperature):
  """4,000 draws, four deviations; the gate is that of temperature 1."""
  num = 4000
  prob_E = np.array([0.64, 0.32, 0.04])
  given = tiny.router_input(np.log(np.tile(prob_E, (num, 1))), key=KEY)
  routing = tiny.route(Switch(noise=switch.Sample(temperature)), given)
  chance_E = prob_E ** (1 / temperature)
  chance_E /= chance_E.sum()
  expert_T = np.asarray(routing.expert_A)
  for expert, chance in enumerate(chance_E):
    spread = np.sqrt(chance * (1 - chance) / num)
    assert abs((expert_T == expert).mean() - chance) < 4 * spread
  np.testing.assert_allclose(routing.weight_A, prob_E[expert_T], rtol=1e-5)


@pytest.mark.parametrize('router', ALL, ids=str)
def test_a_bias_moves_the_choice_but_not_the_gate(router):
  bias_E = jnp.array([0, 0, 0, 50.0])
  given = tiny.router_input(LOGITS_TE, key=KEY, selection_bias_E=bias_E)
  routing = tiny.route(router, given)
  np.testing.assert_array_equal(routing.expert_A, [3, 3, 3])
  np.testing.assert_array_equal(routing.weight_A, routing.prob_TE[:, 3])


def test_noise_is_chosen_by_name():
  router = config_tree.from_config_dict(
    Switch, {'noise': {'name': 'sample', 'temperature': 2.0}}
  )
  assert router == Switch(noise=switch.Sample(2.0))
  router = config_tree.override(router, 'noise.name', 'logits_jitter')
  assert router == Switch(noise=switch.LogitsJitter(0.01))
  assert (
    config_tree.override(router, 'noise.epsilon', '0.1').noise.epsilon == 0.1
  )


def test_there_must_be_an_expert():
  Switch().check(1)
  with pytest.raises(errors.InputError, match='needs an expert'):
    Switch().check(0)
