import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.core import errors
from moejax.moe.routers.sinkhorn import Sinkhorn

KEY = jax.random.key(3)
# The worked example of the facts.
LOGITS_TE = np.array(
  [[2, 1, 0, -1], [0, 1, 2, 1.5], [1, 1.5, 0.5, 0]], np.float32
)


@functools.partial(jax.jit, static_argnums=0)
def route(router, given):
  return router(given)


def of(router, logits_TE=LOGITS_TE, *, key=KEY, row_length=3, **more):
  given = tiny.router_input(logits_TE, key=key, row_length=row_length, **more)
  return jax.device_get(route(router, given))


def by_token(routing, k):
  num_tokens = len(routing.prob_TE)
  return (
    routing.expert_A.reshape(k, num_tokens).T.tolist(),
    routing.weight_A.reshape(k, num_tokens).T,
  )


def test_top_1_of_the_plan_with_sigmoid_weights():
  expert_TK, weight_TK = by_token(of(Sinkhorn()), 1)
  assert expert_TK == [[0], [3], [1]]
  np.testing.assert_allclose(
    weight_TK[:, 0], [0.8808, 0.8176, 0.8176], atol=5e-5
  )


def test_top_2_of_the_plan_with_softmax_weights():
  """Over all experts, not renormalised."""
  expert_TK, weight_TK = by_token(of(Sinkhorn(k=2)), 2)
  assert expert_TK == [[0, 1], [3, 2], [1, 3]]
  np.testing.assert_allclose(weight_TK[0], [0.6439, 0.2369], atol=5e-5)
  np.testing.assert_allclose(weight_TK[1], [0.2875, 0.4740], atol=5e-5)
  np.testing.assert_allclose(weight_TK[2], [0.4551, 0.1015], atol=5e-5)


def test_evaluation_is_greedy():
  expert_TK, weight_TK = by_token(of(Sinkhorn(), key=None), 1)
  assert expert_TK == [[0], [2], [1]]
  np.testing.assert_allclose(
    weight_TK[:, 0], [0.8808, 0.8808, 0.8176], atol=5e-5
  )
  expert_TK, _ = by_token(of(Sinkhorn(k=2), key=None), 2)
  assert expert_TK == [[0, 1], [2, 3], [1, 0]]


def test_it_balances():
  """Greedy sends most tokens to expert 2, the plan about as many to each."""
  rng = np.random.default_rng(0)
  logits_TE = rng.normal(size=(512, 4)) + np.array([0, 0, 3, -1])
  load = lambda key: np.bincount(
    of(Sinkhorn(), logits_TE, key=key, row_length=256).expert_A, minlength=4
  )
  assert load(None).max() > 400
  assert load(KEY).max() < 1.25 * 128
  assert load(KEY).min() > 0.75 * 128


def test_padding_has_no_mass_and_sequences_are_apart():
  rng = np.random.default_rng(1)
  logits_TE = (2 * rng.normal(size=(24, 5))).astype(np.float32)
  valid_T = ~np.isin(np.arange(24), [0, 1, 2, 3, 20])
  routing = of(Sinkhorn(k=2), logits_TE, row_length=12, valid_T=valid_T)
  expert_TK = np.array(by_token(routing, 2)[0])
  np.testing.assert_array_equal(expert_TK[~valid_T], 5)
  # The same as of the valid tokens alone, sequence by sequence.
  for part in (slice(0, 12), slice(12, 24)):
    alone_TE = logits_TE[part][valid_T[part]]
    alone = of(Sinkhorn(k=2), alone_TE, row_length=len(alone_TE))
    np.testing.assert_array_equal(
      by_token(alone, 2)[0], expert_TK[part][valid_T[part]]
    )


@pytest.mark.parametrize('k', [1, 2])
def test_probabilities_and_gradients(k):
  """The plan has no gradient: it is that of the weights at fixed experts."""
  logits_TE = np.concatenate([LOGITS_TE, [[-200, -300, -250, -200]] * 3])
  given = tiny.router_input(logits_TE, key=KEY, row_length=3)
  routing = of(Sinkhorn(k=k), logits_TE)
  np.testing.assert_allclose(routing.prob_TE.sum(axis=1), 1, rtol=1e-6)
  if k == 1:
    score_TE = 1 / (1 + np.exp(-LOGITS_TE))
    np.testing.assert_allclose(
      routing.prob_TE[:3],
      score_TE / score_TE.sum(axis=1, keepdims=True),
      rtol=1e-5,
    )
  expert_TK = np.array(by_token(routing, k)[0])

  def pulled(logits_TE):
    found = Sinkhorn(k=k)(given.replace(logits_TE=logits_TE))
    return jnp.sum(found.weight_A) + jnp.vdot(found.prob_TE, logits_TE)

  def by_hand(logits_TE):
    plain = jax.nn.softmax(logits_TE, axis=1)
    prob_TE, score_TE = plain, plain
    if k == 1:
      score_TE = jax.nn.sigmoid(logits_TE)
      prob_TE = jax.nn.softmax(jax.nn.log_sigmoid(logits_TE), axis=1)
    weight_TK = jnp.take_along_axis(score_TE, expert_TK, axis=1)
    return jnp.sum(weight_TK) + jnp.vdot(prob_TE, logits_TE)

  got_TE = jax.jit(jax.grad(pulled))(given.logits_TE)
  want_TE = jax.jit(jax.grad(by_hand))(given.logits_TE)
  np.testing.assert_allclose(got_TE, want_TE, rtol=1e-4, atol=1e-6)
  assert np.isfinite(got_TE).all()


def test_bad_fields():
  Sinkhorn(k=4).check(4)
  with pytest.raises(errors.InputError) as error:
    Sinkhorn(k=5).check(4)
  assert str(error.value) == (
    'router.k=5 experts per token, but there are 4 routed experts; '
    'use at most 4'
  )
  assert Sinkhorn(k=6).shrunk(4).k == 2
