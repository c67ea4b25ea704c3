import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.moe.routers.stable_moe import StableMoE
from moejax.moe.scorers.token_embedding import TokenEmbedding

L0 = np.array([[2.0, 1, 0, -1], [0, 1, 2, 1.5], [1, 1.5, 0.5, 0]])
STUDENT = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 0.5, 0, 0]])
ROUTER = StableMoE(stage_two_from=100)


KEY = jax.random.key(0)


def given(logits_TE=L0, student_TE=STUDENT, steps=0.0, key=KEY, **more):
  """A training step, or evaluation where there is no key."""
  extra = {'student': jnp.asarray(student_TE, jnp.float32)}
  return tiny.router_input(
    logits_TE, extra_scores=extra, steps=steps, key=key, **more
  )


def test_stage_one_by_hand():
  """Greedy 0, 2, 1 with weights sigmoid(2), sigmoid(2), sigmoid(1.5).

  Counts 1 1 1 0, mean .75: a third above it for three experts, so the balance
  is (.8808 + .8808 + .8176) / 3 = .859723. The student's cross-entropies:
  ln(e + 3) - 1 = .743668 twice, ln(e^.5 + 3) - .5 = 1.036593.
  """
  routing = tiny.route(ROUTER, given())
  np.testing.assert_array_equal(routing.expert_A, [0, 2, 1])
  np.testing.assert_allclose(
    routing.weight_A, [0.8808, 0.8808, 0.8176], atol=5e-5
  )
  score_TE = np.asarray(routing.extra['stable_TE'])
  count_E = np.bincount(routing.expert_A, minlength=4)
  balance = ((count_E - 0.75) / 0.75 * score_TE.sum(axis=0)).sum()
  np.testing.assert_allclose(balance, 0.859723, atol=1e-6)
  np.testing.assert_allclose(
    routing.extra['distill_T'], [0.743668, 0.743668, 1.036593], atol=1e-6
  )
  np.testing.assert_allclose(routing.extra['distill_T'].sum(), 2.523929, 1e-6)
  assert routing.residual_T is None


def test_stage_two_follows_the_student_alone():
  """Its choices, the main scores as weights, and no loss."""
  student_TE = np.roll(STUDENT, 1, axis=1)
  routing = tiny.route(ROUTER, given(student_TE=student_TE, steps=100.0))
  np.testing.assert_array_equal(routing.expert_A, [1, 3, 2])
  np.testing.assert_allclose(
    routing.weight_A, jax.nn.sigmoid(jnp.array([1.0, 1.5, 0.5])), rtol=1e-6
  )
  other = tiny.route(ROUTER, given(-L0, student_TE, steps=1e4))
  np.testing.assert_array_equal(other.expert_A, routing.expert_A)
  for extra in routing.extra.values():
    np.testing.assert_array_equal(extra, 0)
  assert ROUTER.counts_steps


@pytest.mark.parametrize('steps', [0.0, 99.0, 100.0])
def test_evaluation_is_by_the_student_in_both_stages(steps):
  """As in the released code, with the main scores as weights and no loss. A
  bias, which acts on what the student learns, does not act on the student.
  """
  bias_E = np.array([0, 0, 0, 9], np.float32)
  student_TE = np.roll(STUDENT, 1, axis=1)
  routing = tiny.route(
    ROUTER,
    given(
      student_TE=student_TE, steps=steps, key=None, selection_bias_E=bias_E
    ),
  )
  np.testing.assert_array_equal(routing.expert_A, [1, 3, 2])
  np.testing.assert_allclose(
    routing.weight_A, jax.nn.sigmoid(jnp.array([1.0, 1.5, 0.5])), rtol=1e-6
  )
  for extra in routing.extra.values():
    np.testing.assert_array_equal(extra, 0)


@pytest.mark.parametrize('steps', [0.0, 100.0])
def test_who_is_trained_in_which_stage(steps):
  """The main scores by the weights in both; the student by distillation, in
  the first alone, and by nothing else.
  """
  whole = given(student_TE=np.roll(STUDENT, 1, axis=1), steps=steps)

  def pulled(logits_TE, student_TE, name):
    routing = ROUTER(
      dataclasses.replace(
        whole, logits_TE=logits_TE, extra_scores={'student': student_TE}
      )
    )
    found = {'weight': routing.weight_A, **routing.extra}
    return found[name].sum()

  def reached(name):
    pair = jax.jit(jax.grad(pulled, (0, 1)), static_argnums=2)(
      whole.logits_TE, whole.extra_scores['student'], name
    )
    return [bool((np.abs(g) > 0).any()) for g in pair]

  first = steps == 0
  assert reached('weight') == [True, False]
  assert reached('stable_TE') == [first, False]
  assert reached('distill_T') == [False, first]


def test_interpolation_and_padding():
  """a E(x) + (1 - a) x; nothing at all of padding."""
  valid_T = np.array([True, False, True])
  router = dataclasses.replace(ROUTER, interpolates=True)
  routing = tiny.route(router, given(valid_T=valid_T))
  np.testing.assert_allclose(
    routing.residual_T + routing.weight_A, valid_T, rtol=1e-6
  )
  assert 0.1 < routing.residual_T[0] < 0.2
  np.testing.assert_array_equal(routing.expert_A, [0, 4, 1])


def test_a_bias_acts_while_learning_and_is_learned():
  bias_E = np.array([0, 0, 0, 9], np.float32)
  routing = tiny.route(ROUTER, given(selection_bias_E=bias_E))
  np.testing.assert_array_equal(routing.expert_A, [3, 3, 3])
  np.testing.assert_allclose(
    routing.weight_A, jax.nn.sigmoid(jnp.asarray(L0[:, 3])), rtol=1e-6
  )
  np.testing.assert_allclose(
    routing.extra['distill_T'],
    -jax.nn.log_softmax(jnp.asarray(STUDENT))[:, 3],
    rtol=1e-6,
  )
  after = tiny.route(ROUTER, given(selection_bias_E=bias_E, steps=100.0))
  np.testing.assert_array_equal(after.expert_A, [0, 2, 1])


def test_the_student_is_a_scorer_of_ids():
  assert StableMoE().extra_scorers(6) == {'student': (TokenEmbedding(), 6)}
