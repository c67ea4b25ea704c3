"""SparseMixer-v2: what is drawn, what it is weighted with, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.moe.routers.sparse_mixer import SparseMixer

KEY = jax.random.key(4)
T = 4000
# Two experts 0.5% apart, a third 5% behind: two may be drawn with r = 0.01.
CLOSE = np.array([2.0, 1.99, 1.9, -1.0])


def by_token(values_A, k=2):
  return np.asarray(values_A).reshape(k, -1).T


def slow(logits_E, k, r):
  """Experts and gates of one token in evaluation, by loops."""
  left, found = list(range(len(logits_E))), []
  for _ in range(k):
    most = max(logits_E[e] for e in left)
    close = [
      e
      for e in left
      if most == logits_E[e]
      or (most - logits_E[e]) / max(abs(logits_E[e]), most) <= 2 * r
    ]
    exp = {e: np.exp(logits_E[e] - most) for e in close}
    best = max(close, key=lambda e: logits_E[e])
    found.append((best, exp[best] / sum(exp.values())))
    left.remove(best)
  return found


def test_evaluation_worked_by_hand():
  """2 r = .02. Behind 2.0: .005 is in, .05 is out: 1 / (1 + exp(-.01)) = .5025.

  Without expert 0: (1.99 - 1.9) / 1.99 = .045 is out, so the gate is 1.
  """
  routing = tiny.route(SparseMixer(), tiny.router_input(CLOSE[None]))
  np.testing.assert_array_equal(by_token(routing.expert_A), [[0, 1]])
  np.testing.assert_allclose(
    by_token(routing.weight_A), [[0.5025, 1]], rtol=1e-5
  )


@pytest.mark.parametrize('r', [0.0, 0.1, 0.5])
def test_evaluation_equals_loops(r):
  logits_TE = np.random.default_rng(0).normal(size=(60, 7)).astype(np.float32)
  routing = tiny.route(SparseMixer(k=3, r=r), tiny.router_input(logits_TE))
  want = [slow(logits_E, 3, r) for logits_E in logits_TE.astype(float)]
  np.testing.assert_array_equal(
    by_token(routing.expert_A, 3), [[e for e, _ in one] for one in want]
  )
  np.testing.assert_allclose(
    by_token(routing.weight_A, 3),
    [[w for _, w in one] for one in want],
    rtol=1e-5,
  )


@pytest.fixture(scope='module')
def drawn():
  """Many tokens with the same logits in training: experts and gates [T, 2]."""
  routing = tiny.route(
    SparseMixer(), tiny.router_input(np.tile(CLOSE, (T, 1)), key=KEY)
  )
  return by_token(routing.expert_A), by_token(routing.weight_A)


def test_training_draws_by_probability_and_weighs_some_with_a_third(drawn):
  expert_TK, weight_TK = drawn
  first = 1 / (1 + np.exp(-0.01))
  spread = 0.5 / np.sqrt(T)
  assert set(expert_TK[:, 0].tolist()) == {0, 1}
  assert abs((expert_TK[:, 0] == 0).mean() - first) < 4 * spread
  # The most probable has its probability, the other a third of it or all.
  is_first_T = expert_TK[:, 0] == 0
  np.testing.assert_allclose(weight_TK[is_first_T, 0], first, rtol=1e-5)
  others = weight_TK[~is_first_T, 0] / (1 - first)
  is_whole = others > 0.9
  np.testing.assert_allclose(others, np.where(is_whole, 1, 1 / 3), rtol=1e-5)
  assert abs(is_whole.mean() - 0.25) < 4 * 0.43 / np.sqrt(len(others))
  # What is left is drawn from anew: 1 after 0; 0 alone after 1, since 1.9 is
  # out both times.
  np.testing.assert_array_equal(expert_TK[:, 1], 1 - expert_TK[:, 0])
  np.testing.assert_allclose(weight_TK[:, 1], 1)


def test_the_gradient_is_that_of_the_whole_probability():
  """d p_i / d l = p_i (onehot_i - p), also where a third is the value."""
  router = SparseMixer(k=1)
  logits_TE = jnp.tile(jnp.asarray(CLOSE), (50, 1))

  def total(logits_TE):
    routing = router(tiny.router_input(logits_TE, key=KEY))
    return jnp.sum(routing.weight_A), (routing.expert_A, routing.weight_A)

  slope_TE, (expert_T, weight_T) = jax.device_get(
    jax.jit(jax.grad(total, has_aux=True))(logits_TE)
  )
  assert (weight_T < 0.2).any()
  first = 1 / (1 + np.exp(-0.01))
  p_E = np.array([first, 1 - first, 0, 0])
  want_TE = p_E[expert_T][:, None] * (np.eye(4)[expert_T] - p_E)
  np.testing.assert_allclose(slope_TE, want_TE, rtol=1e-4, atol=1e-7)


def test_of_a_cubic_loss_the_mean_gradient_is_the_exact_difference():
  """Heun's third order method is exact for polynomials of degree three.

  Of the tokens that have drawn the other expert, with output f(gate v), the
  mean of the estimates is (f(p v) - f(0)) d ln p / d l; a gate that is always p
  gives f'(p v) p v in place of f(p v) - f(0), which is not near it.
  """
  v = 3.0
  f = lambda x: 0.5 * x**3 - 2 * x**2 + x
  router = SparseMixer(k=1)

  def total(logits_TE):
    routing = router(tiny.router_input(logits_TE, key=KEY))
    other_T = routing.expert_A == 1
    return jnp.sum(jnp.where(other_T, f(routing.weight_A * v), 0.0)), other_T

  logits_TE = jnp.tile(jnp.asarray(CLOSE), (T, 1))
  slope_TE, other_T = jax.jit(jax.grad(total, has_aux=True))(logits_TE)
  mean_E = np.asarray(slope_TE)[np.asarray(other_T)].mean(axis=0)
  p = 1 - 1 / (1 + np.exp(-0.01))
  want = (f(p * v) - f(0)) * (1 - p)
  slope = lambda x: 1.5 * x**2 - 4 * x + 1
  naive = slope(p * v) * p * v * (1 - p)
  assert abs(naive - want) > 0.3
  assert mean_E[1] == pytest.approx(want, abs=0.06)
  np.testing.assert_allclose(mean_E[0], -mean_E[1], rtol=1e-4)
