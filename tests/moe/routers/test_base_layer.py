import functools

import jax
import jax.numpy as jnp
import numpy as np
from helpers import tiny
from scipy import optimize

from moejax.moe.routers.base_layer import BaseLayer

KEY = jax.random.key(3)
S, E = 16, 4
RNG = np.random.default_rng(0)
# Most tokens prefer expert 1.
LOGITS_TE = RNG.normal(size=(2 * S, E)) + np.array([0, 1.5, 0, -1])
LOGITS_TE = LOGITS_TE.astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def route(router, given):
  return router(given)


def of(logits_TE=LOGITS_TE, valid_T=None, key=KEY, row_length=S, **more):
  given = tiny.router_input(
    logits_TE, valid_T=valid_T, key=key, row_length=row_length, **more
  )
  return jax.device_get(route(BaseLayer(interpolates=True), given))


def test_training_is_the_best_balanced_assignment_of_each_sequence():
  """Against scipy, expert by expert."""
  expert_T = of().expert_A
  for first in (0, S):
    score_SE = LOGITS_TE[first : first + S]
    _, column_S = optimize.linear_sum_assignment(
      np.repeat(score_SE, S // E, axis=1), maximize=True
    )
    np.testing.assert_array_equal(
      expert_T[first : first + S], column_S // (S // E)
    )
    np.testing.assert_array_equal(
      np.bincount(expert_T[first : first + S]), [S // E] * E
    )


def test_evaluation_is_each_tokens_best():
  routing = of(key=None)
  np.testing.assert_array_equal(routing.expert_A, LOGITS_TE.argmax(axis=1))
  assert np.ptp(np.bincount(routing.expert_A, minlength=E)) > 4


def test_the_weights_of_expert_and_token():
  """sigmoid(x . c_e), and what is left of 1 to the token itself."""
  for key in (None, KEY):
    routing = of(key=key)
    logit_T = LOGITS_TE[np.arange(2 * S), routing.expert_A]
    np.testing.assert_allclose(
      routing.weight_A, 1 / (1 + np.exp(-logit_T)), rtol=1e-6
    )
    np.testing.assert_allclose(
      routing.weight_A + routing.residual_T, 1, rtol=1e-6
    )


def test_the_worked_weights():
  """The greedy choice of the example: .8808, .8808 and .8176."""
  logits_TE = [[2, 1, 0, -1], [0, 1, 2, 1.5], [1, 1.5, 0.5, 0]]
  routing = of(logits_TE, key=None, row_length=3)
  np.testing.assert_array_equal(routing.expert_A, [0, 2, 1])
  np.testing.assert_allclose(
    routing.weight_A, [0.8808, 0.8808, 0.8176], atol=5e-5
  )


def test_padding_takes_no_place():
  valid_T = ~np.isin(np.arange(2 * S), [0, 1, 7, 20])
  routing = of(valid_T=valid_T)
  np.testing.assert_array_equal(routing.expert_A[~valid_T], E)
  np.testing.assert_array_equal(routing.weight_A[~valid_T], 0)
  np.testing.assert_array_equal(routing.residual_T[~valid_T], 0)
  for first in (0, S):
    part = routing.expert_A[first : first + S]
    load_E = np.bincount(part[part < E], minlength=E)
    assert np.ptp(load_E) <= 1
  far_TE = np.tile([[1e12, -1e12, 0, 0]], (2 * S, 1))
  other_TE = np.where(valid_T[:, None], LOGITS_TE, far_TE)
  np.testing.assert_array_equal(
    of(other_TE, valid_T).expert_A, routing.expert_A
  )


def test_selection_biases_choose_in_evaluation():
  bias_E = jnp.array([0, 0, 0, 50], jnp.float32)
  routing = of(key=None, selection_bias_E=bias_E)
  np.testing.assert_array_equal(routing.expert_A, 3)
  np.testing.assert_allclose(
    routing.weight_A, 1 / (1 + np.exp(-LOGITS_TE[:, 3])), rtol=1e-6
  )


def test_the_gradient_goes_through_the_sigmoid_alone():
  given = tiny.router_input(LOGITS_TE, key=KEY, row_length=S)
  expert_T = of().expert_A

  def output(logits_TE):
    routing = BaseLayer(interpolates=True)(given.replace(logits_TE=logits_TE))
    return jnp.sum(routing.weight_A - 2 * routing.residual_T)

  got_TE = jax.jit(jax.grad(output))(LOGITS_TE)
  weight_TE = 1 / (1 + np.exp(-LOGITS_TE))
  chosen_TE = expert_T[:, None] == np.arange(E)
  want_TE = np.where(chosen_TE, 3 * weight_TE * (1 - weight_TE), 0)
  np.testing.assert_allclose(got_TE, want_TE, rtol=1e-5, atol=1e-7)


def test_the_block_adds_the_token_unless_told():
  """x + a F(x) is what a residual expert gives with either."""
  given = tiny.router_input(LOGITS_TE, key=KEY, row_length=S)
  plain = tiny.route(BaseLayer(), given)
  assert plain.residual_T is None
  np.testing.assert_array_equal(plain.weight_A, of().weight_A)
