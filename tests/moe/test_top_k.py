import jax
import numpy as np
import pytest
from helpers import slow, tiny

from moejax.core import errors
from moejax.moe.routers.top_k import TopK

# Three tokens whose softmax probabilities are these.
PROB_TE = np.array([[0.5, 0.3, 0.1, 0.1], [0.1, 0.2, 0.6, 0.1], [0.25] * 4])


def route(router, prob_TE=PROB_TE, **given):
  return jax.jit(router)(tiny.router_input(np.log(prob_TE), **given))


def test_best_first_and_every_first_choice_before_every_second():
  """Token 2 is undecided: the lower numbers win."""
  routing = route(TopK(k=2))
  np.testing.assert_array_equal(routing.token_A, [0, 1, 2, 0, 1, 2])
  np.testing.assert_array_equal(routing.expert_A, [0, 2, 0, 1, 1, 1])
  np.testing.assert_allclose(
    routing.weight_A, [0.5, 0.6, 0.25, 0.3, 0.2, 0.25], rtol=1e-6
  )
  np.testing.assert_allclose(routing.prob_TE, PROB_TE, rtol=1e-6)
  assert (routing.per_token, routing.group_size) == (2, 3)


def test_padding_goes_nowhere():
  routing = route(TopK(k=2), valid_T=[True, False, True])
  np.testing.assert_array_equal(routing.expert_A, [0, 4, 0, 1, 4, 1])
  np.testing.assert_allclose(routing.weight_A[1::3], 0)


def test_gates_are_not_renormalised_unless_asked():
  gate_TK = np.array(route(TopK(k=2)).weight_A).reshape(2, 3).T
  np.testing.assert_allclose(gate_TK.sum(axis=1), [0.8, 0.8, 0.5], rtol=1e-6)
  ratio_TK = np.array(route(TopK(k=2, renormalise=True)).weight_A)
  np.testing.assert_allclose(
    ratio_TK.reshape(2, 3).T,
    [[0.5 / 0.8, 0.3 / 0.8], [0.6 / 0.8, 0.2 / 0.8], [0.5, 0.5]],
    rtol=1e-6,
  )


def test_softmax_is_over_all_experts_before_the_choice():
  """Softmax over the two kept alone would give 5/8 and 3/8."""
  assert abs(float(route(TopK(k=2)).weight_A[0]) - 0.5) < 1e-6


@pytest.mark.parametrize('k', [1, 3, 7])
def test_random_scores_against_sorting(k):
  logits_TE = np.random.default_rng(k).normal(size=(20, 7)).astype(np.float32)
  routing = jax.jit(TopK(k=k))(tiny.router_input(logits_TE))
  expert_TK = np.asarray(routing.expert_A).reshape(k, 20).T
  weight_TK = np.asarray(routing.weight_A).reshape(k, 20).T
  for t, logits_E in enumerate(logits_TE):
    scores = slow.softmax(logits_E)
    chosen = slow.top(scores, k)
    assert expert_TK[t].tolist() == chosen
    np.testing.assert_allclose(weight_TK[t], [scores[i] for i in chosen], 1e-5)
  if k == 7:
    np.testing.assert_allclose(weight_TK.sum(axis=1), 1, rtol=1e-6)


def test_huge_scores_stay_finite():
  routing = TopK(k=2)(tiny.router_input([[1e30, -1e30, 0.0]]))
  np.testing.assert_array_equal(routing.weight_A, [1, 0])


@pytest.mark.parametrize('k', [0, 5])
def test_k_must_fit_the_experts(k):
  TopK(k=4).check(4)
  with pytest.raises(errors.InputError) as error:
    TopK(k=k).check(4)
  assert str(error.value) == (
    f'router.k={k} experts per token, but there are 4 routed experts; use 1 to '
    '4'
  )
