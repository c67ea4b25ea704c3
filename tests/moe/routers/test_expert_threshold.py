"""Expert Threshold: thresholds are remembered, so no token sees another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny
from helpers.balance import sigmoid

from moejax.core import errors
from moejax.moe.balance.threshold_ema import ThresholdEma
from moejax.moe.routers.expert_threshold import ExpertThreshold

KEY = jax.random.key(0)
# Four tokens of two experts.
LOGITS_TE = np.array([[2.0, -1.0], [0.5, 1.0], [-0.5, -2.0], [1.0, 0.25]])


def thresholds(threshold_E):
  return {'selection_bias_E': -jnp.asarray(threshold_E, jnp.float32)}


def used(routing, num_experts=2):
  """Whether each token has each expert, and with which weight."""
  gate_TE = np.zeros((len(routing.prob_TE), num_experts + 1))
  gate_TE[np.asarray(routing.token_A), np.asarray(routing.expert_A)] += (
    np.asarray(routing.weight_A)
  )
  return gate_TE[:, :num_experts]


def test_worked_by_hand():
  """Above .75: tokens 0 and 3. Above -1.5: tokens 0, 1 and 3 of expert 1.

  Token 2 has no expert; weights are sigmoids of what is above or not.
  """
  given = tiny.router_input(LOGITS_TE, **thresholds([0.75, -1.5]))
  gate_TE = used(tiny.route(ExpertThreshold(), given))
  is_used_TE = np.array([[1, 1], [0, 1], [0, 0], [1, 1]])
  np.testing.assert_allclose(
    gate_TE, is_used_TE * sigmoid(LOGITS_TE), rtol=1e-6
  )
  # Without thresholds they are 0.
  plain = used(tiny.route(ExpertThreshold(), tiny.router_input(LOGITS_TE)))
  np.testing.assert_array_equal(plain > 0, LOGITS_TE > 0)


def test_first_steps_are_expert_choice_within_a_sequence():
  """Rows of 4 tokens, k = 1: each of 2 experts takes 2 of each sequence."""
  both_TE = np.concatenate([LOGITS_TE, 3 * LOGITS_TE[::-1]])
  valid_T = np.array([1, 1, 1, 1, 1, 0, 1, 0], bool)
  router = ExpertThreshold(warmup_steps=10)
  of = lambda steps, key=KEY: used(
    router(
      tiny.router_input(
        both_TE,
        valid_T=valid_T,
        row_length=4,
        key=key,
        steps=jnp.float32(steps),
        **thresholds([0.75, -1.5]),
      )
    )
  )
  # Largest of expert 0: tokens 0 and 3; of the second row, where tokens 5 and 7
  # are padding, both that are left, 4 and 6. Of expert 1: 1 and 3; 4 and 6.
  want = np.zeros((8, 2), bool)
  want[[0, 3, 4, 6], 0] = want[[1, 3, 4, 6], 1] = True
  np.testing.assert_array_equal(of(9) > 0, want)
  above = (both_TE > [0.75, -1.5]) & valid_T[:, None]
  assert (above != want).any()
  np.testing.assert_array_equal(of(10) > 0, above)
  # Evaluation has thresholds always.
  np.testing.assert_array_equal(of(0, key=None) > 0, above)


def observed(part, logits_TE, valid_T=None):
  given = tiny.router_input(logits_TE, valid_T=valid_T)
  return part.observe(given, tiny.route(ExpertThreshold(), given))


def after(part, state, sums):
  layers = lambda tree: jax.tree.map(lambda x: jnp.asarray(x)[None], tree)
  new = part.update(layers(state), layers(sums))
  return jax.tree.map(lambda x: np.asarray(x[0]), new)


def test_the_average_worked_by_hand():
  """q = 4 * 1 / 2: the second largest, 1.0 and .25, then 3.0 and .75.

  decay .9: after one step .1 * 1 / (1 - .9) = 1; after two
  (.9 * .1 * 1 + .1 * 3) / (1 - .81) = .39 / .19, of expert 1 a quarter of it.
  """
  part = ThresholdEma(k=1.0, decay=0.9)
  one = after(part, part.initial_state(2), observed(part, LOGITS_TE))
  np.testing.assert_allclose(one.selection_bias_E, [-1, -0.25], rtol=8e-3)
  two = after(part, one, observed(part, 3 * LOGITS_TE))
  np.testing.assert_allclose(
    two.selection_bias_E, [-0.39 / 0.19, -0.0975 / 0.19], rtol=8e-3
  )
  assert two.kept['updates'] == 2
  # A batch of padding says nothing.
  none = observed(part, LOGITS_TE, np.zeros(4, bool))
  tiny.assert_close(after(part, two, none), two)


@pytest.mark.parametrize('scale', [0.03, 1.0, 12.0])
def test_the_value_is_that_of_a_sorted_list_of_all_shards(scale):
  rng = np.random.default_rng(0)
  logits_TE = scale * (rng.normal(size=(3000, 6)) + rng.normal(size=6))
  part = ThresholdEma(k=1.5, decay=0.0)
  halves = [observed(part, half) for half in np.split(logits_TE, [700])]
  sums = jax.tree.map(jnp.add, *halves)
  got = -after(part, part.initial_state(6), sums).selection_bias_E
  want = -np.sort(-logits_TE, axis=0)[int(3000 * 1.5 / 6) - 1]
  np.testing.assert_allclose(got, want, rtol=8e-3, atol=8e-4)


def test_loads_become_even_where_logits_are_skewed():
  """And a token has k experts on average, though no token is compared."""
  rng = np.random.default_rng(1)
  skew_E = np.array([3.0, 0, 0, -1, -4, 0.5])
  part, router = ThresholdEma(k=2.0), ExpertThreshold(k=2.0, warmup_steps=0)
  state = part.initial_state(6)
  for _ in range(20):
    logits_TE = rng.normal(size=(600, 6)) + skew_E
    state = after(part, state, observed(part, logits_TE))
  fresh_TE = rng.normal(size=(6000, 6)) + skew_E
  given = tiny.router_input(fresh_TE, selection_bias_E=state.selection_bias_E)
  share_E = (used(tiny.route(router, given), 6) > 0).mean(axis=0)
  np.testing.assert_allclose(share_E, 2 / 6, atol=0.03)


def test_more_experts_per_token_than_there_are_is_refused():
  for part in (ExpertThreshold(k=9.0), ThresholdEma(k=9.0)):
    part.check(9)
    with pytest.raises(errors.InputError, match='k=9.0 experts per token'):
      part.check(8)
