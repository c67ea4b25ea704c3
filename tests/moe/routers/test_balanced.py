import functools

import jax
import numpy as np
import pytest
from helpers import tiny

from moejax.core import errors
from moejax.moe.routers.balanced import ForcedBalanced, Random

KEY = jax.random.key(3)
LOGITS_TE = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def route(router, given):
  return router(given)


def of(router, key=None, **more):
  given = tiny.router_input(LOGITS_TE, key=key, **more)
  routing = jax.device_get(route(router, given))
  shape = (router.k, len(LOGITS_TE))
  return (
    routing.expert_A.reshape(shape).T,
    routing.weight_A.reshape(shape).T,
    routing.prob_TE,
  )


@pytest.mark.parametrize('k', [1, 2, 5])
def test_round_robin(k):
  """Token by token, whatever the scores, in training as in evaluation."""
  router = ForcedBalanced(k=k)
  for key in (None, KEY):
    expert_TK, weight_TK, prob_TE = of(router, key)
    np.testing.assert_array_equal(expert_TK.reshape(-1), np.arange(40 * k) % 5)
    load_E = np.bincount(expert_TK.reshape(-1))
    np.testing.assert_array_equal(load_E, [8 * k] * 5)
    np.testing.assert_array_equal(
      weight_TK, np.take_along_axis(prob_TE, expert_TK, 1)
    )
  np.testing.assert_allclose(prob_TE, jax.nn.softmax(LOGITS_TE), rtol=1e-6)


def test_a_shard_continues_the_batch():
  given = tiny.router_input(LOGITS_TE)
  whole_TK = of(ForcedBalanced())[0]
  half = given.replace(
    logits_TE=given.logits_TE[13:],
    valid_T=given.valid_T[13:],
    index_T=given.index_T[13:],
  )
  expert_TK = np.reshape(route(ForcedBalanced(), half).expert_A, (2, 27)).T
  np.testing.assert_array_equal(expert_TK, whole_TK[13:])


def test_a_large_index_does_not_overflow():
  given = tiny.router_input(LOGITS_TE)
  given = given.replace(index_T=given.index_T + (2**31 - 41))
  expert_TK = np.reshape(route(ForcedBalanced(k=3), given).expert_A, (3, 40)).T
  first_T = [(2**31 - 41 + t) * 3 % 5 for t in range(40)]
  np.testing.assert_array_equal(expert_TK[:, 0], first_T)


@pytest.mark.parametrize('router', [ForcedBalanced, Random])
def test_equal_weights(router):
  _, weight_TK, _ = of(router(k=4, equal_weights=True))
  np.testing.assert_array_equal(weight_TK, 0.25)


def test_random_is_anew_in_training_and_fixed_in_evaluation():
  router = Random(k=2)
  first_TK = of(router, KEY)[0]
  np.testing.assert_array_equal(of(router, KEY)[0], first_TK)
  assert (of(router, jax.random.key(4))[0] != first_TK).any()
  calm_TK = of(router)[0]
  np.testing.assert_array_equal(of(router)[0], calm_TK)
  assert (of(router, layer=1)[0] != calm_TK).any()
  for expert_TK in (first_TK, calm_TK):
    assert (expert_TK[:, 0] != expert_TK[:, 1]).all()


@pytest.mark.parametrize('key', [None, KEY])
def test_random_is_uniform(key):
  """4,000 choices of 5 experts: 800 each, to four standard deviations."""
  given = tiny.router_input(np.zeros((2000, 5)), key=key)
  expert_A = np.asarray(route(Random(k=2), given).expert_A)
  for choice_T in expert_A.reshape(2, 2000):
    load_E = np.bincount(choice_T, minlength=5)
    assert np.abs(load_E - 400).max() < 4 * np.sqrt(2000 * 0.2 * 0.8)


@pytest.mark.parametrize('router', [ForcedBalanced, Random])
def test_padding_goes_nowhere(router):
  valid_T = np.arange(40) % 3 != 0
  expert_TK, weight_TK, _ = of(router(), KEY, valid_T=valid_T)
  np.testing.assert_array_equal(expert_TK[~valid_T], 5)
  np.testing.assert_array_equal(weight_TK[~valid_T], 0)


def test_k_must_fit_the_experts():
  ForcedBalanced(k=5).check(5)
  with pytest.raises(errors.InputError) as error:
    Random(k=6).check(5)
  assert str(error.value) == (
    'router.k=6 experts per token, but there are 5 routed experts; '
    'use at most 5'
  )
  assert Random(k=4).shrunk(3) == Random(k=2)
