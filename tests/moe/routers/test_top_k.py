"""Top-k by any score: published routers' numbers, and what holds for all."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import references, tiny

from moejax.core import errors
from moejax.moe import balance
from moejax.moe.contract import RouterState
from moejax.moe.routers import noise, scores
from moejax.moe.routers.top_k import TopK

# Three tokens whose softmax probabilities are these.
PROB_TE = np.array([[0.5, 0.3, 0.1, 0.1], [0.1, 0.2, 0.6, 0.1], [0.25] * 4])

# The logits of the worked examples below.
LOGITS_TE = np.array([
  [2.0, 1.0, 0.0, -1.0],
  [0.0, 1.0, 2.0, 1.5],
  [1.0, 1.5, 0.5, 0.0],
])

RNG = np.random.default_rng(0)
RANDOM_TE = RNG.normal(size=(40, 6)).astype(np.float32)
KEY = jax.random.key(2)


def route(router, prob_TE=PROB_TE, **given):
  return jax.jit(router)(tiny.router_input(np.log(prob_TE), **given))


def by_token(values_A, k):
  return np.asarray(values_A).reshape(k, -1).T


def with_bias(bias_E):
  return {'selection_bias_E': jnp.asarray(bias_E)}


def gates(routing):
  """The weight of each expert for each token, [T, E]."""
  gate_TE = np.zeros(routing.prob_TE.shape)
  for a, expert in enumerate(np.asarray(routing.expert_A)):
    if expert < gate_TE.shape[1]:
      gate_TE[routing.token_A[a], expert] += routing.weight_A[a]
  return gate_TE


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
  assert (routing.scales_input, routing.extra) == (False, {})


def test_padding_goes_nowhere():
  routing = route(TopK(k=2), valid_T=[True, False, True])
  np.testing.assert_array_equal(routing.expert_A, [0, 4, 0, 1, 4, 1])
  np.testing.assert_allclose(routing.weight_A[1::3], 0)


def test_gates_are_not_renormalised_unless_asked():
  gate_TK = by_token(route(TopK(k=2)).weight_A, 2)
  np.testing.assert_allclose(gate_TK.sum(axis=1), [0.8, 0.8, 0.5], rtol=1e-6)
  ratio_TK = by_token(route(TopK(k=2, renormalise=True)).weight_A, 2)
  np.testing.assert_allclose(
    ratio_TK,
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
  expert_TK, weight_TK = (
    by_token(x, k) for x in (routing.expert_A, routing.weight_A)
  )
  for t, logits_E in enumerate(logits_TE):
    found = references.softmax(logits_E)
    chosen = references.top(found, k)
    assert expert_TK[t].tolist() == chosen
    np.testing.assert_allclose(weight_TK[t], [found[i] for i in chosen], 1e-5)
  if k == 7:
    np.testing.assert_allclose(weight_TK.sum(axis=1), 1, rtol=1e-6)


def test_the_default_is_softmax_and_its_largest_to_the_last_bit():
  """Value and gradient, as in the first version of this router."""
  pull_TK = RNG.normal(size=(40, 2)).astype(np.float32)

  def plain(logits_TE):
    gate_TK, expert_TK = jax.lax.top_k(jax.nn.softmax(logits_TE, axis=-1), 2)
    return jnp.vdot(gate_TK, pull_TK), expert_TK

  def ours(logits_TE):
    routing = TopK()(tiny.router_input(logits_TE))
    weight_TK = routing.weight_A.reshape(2, 40).T
    return jnp.vdot(weight_TK, pull_TK), routing.expert_A.reshape(2, 40).T

  got, want = (
    jax.jit(jax.value_and_grad(f, has_aux=True))(RANDOM_TE)
    for f in (ours, plain)
  )
  jax.tree.map(np.testing.assert_array_equal, got, want)


SIGMOID = TopK(score='sigmoid')
V4 = TopK(score='sqrt_softplus', renormalise=True, scale=1.5)
MIXTRAL = [
  [0.7311, 0.2689, 0, 0],
  [0, 0, 0.6225, 0.3775],
  [0.3775, 0.6225, 0, 0],
]


@pytest.mark.parametrize(
  ('router', 'bias_E', 'gate_TE'),
  [
    # Grok-1, OLMoE: softmax over all; not renormalised
    (
      TopK(),
      None,
      [[0.6439, 0.2369, 0, 0], [0, 0, 0.4740, 0.2875], [0.2760, 0.4551, 0, 0]],
    ),
    (TopK(renormalise=True), None, MIXTRAL),
    (TopK(after=True), None, MIXTRAL),
    # sigma-MoE
    (
      SIGMOID,
      None,
      [[0.8808, 0.7311, 0, 0], [0, 0, 0.8808, 0.8176], [0.7311, 0.8176, 0, 0]],
    ),
    # Kimi-K2: .8808 / (.8808 + .7311) * 2.827, and so on
    (
      TopK(score='sigmoid', renormalise=True, scale=2.827),
      None,
      [[1.5448, 1.2822, 0, 0], [0, 0, 1.4661, 1.3609], [1.3345, 1.4925, 0, 0]],
    ),
    # Loss-free: .5 + .3 beats .7311, and it counts as .5
    (
      SIGMOID,
      [0, 0, 0.3, 0],
      [[0.8808, 0, 0.5, 0], [0, 0, 0.8808, 0.8176], [0, 0.8176, 0.6225, 0]],
    ),
    # LongCat-Flash
    (
      TopK(scale=6.0),
      [0.1, 0, 0, 0],
      [[3.8635, 1.4213, 0, 0], [0, 0, 2.8439, 1.7249], [1.656, 2.7303, 0, 0]],
    ),
    # DeepSeek-V4
    (
      V4,
      [0, 0, 0, 0.6],
      [[1.084, 0, 0, 0.416], [0, 0, 0.7918, 0.7082], [0, 0.9156, 0, 0.5844]],
    ),
    # The bias on logits, the weight a sigmoid: 0 + 1.2 beats 1
    (
      TopK(score='sigmoid', after=True, renormalise=True, scale=2.5),
      [0, 0, 1.2, 0],
      [[1.5947, 0, 0.9053, 0], [0, 0, 1.2965, 1.2035], [0, 1.4194, 1.0806, 0]],
    ),
  ],
)
def test_worked_examples(router, bias_E, gate_TE):
  bias = {} if bias_E is None else with_bias(bias_E)
  # Not compiled whole: the cases have most operations in common.
  routing = router(tiny.router_input(LOGITS_TE, **bias))
  np.testing.assert_allclose(gates(routing), gate_TE, atol=6e-5)


def test_llama_4_scales_the_input_by_a_sigmoid():
  router = TopK(k=1, score='sigmoid', scales_input=True)
  router.check(4)
  routing = tiny.route(router, tiny.router_input(LOGITS_TE))
  assert routing.scales_input
  np.testing.assert_array_equal(routing.expert_A, [0, 2, 1])
  np.testing.assert_allclose(
    routing.weight_A, [0.8808, 0.8808, 0.8176], atol=6e-5
  )


@pytest.mark.parametrize(
  ('name', 'score_TE'),
  [
    (
      'sigmoid',
      [[0.8808, 0.7311, 0.5, 0.2689], [0.5, 0.7311, 0.8808, 0.8176]],
    ),
    (
      'sqrt_softplus',
      [[1.4584, 1.1460, 0.8326, 0.5597], [0.8326, 1.1460, 1.4584, 1.3044]],
    ),
    # e^.6439, e^.2369, e^.0871, e^.0321 are 1.9039, 1.2673, 1.0910, 1.0326;
    # over their sum 5.2948; and so on
    (
      'double_softmax',
      [[0.3596, 0.2393, 0.2061, 0.1950], [0.2052, 0.2291, 0.3092, 0.2566]],
    ),
  ],
)
def test_scores(name, score_TE):
  got_TE, prob_TE = scores.SCORES[name](jnp.asarray(LOGITS_TE[:2]))
  np.testing.assert_allclose(got_TE, score_TE, atol=6e-5)
  want_TE = score_TE / np.sum(score_TE, axis=1, keepdims=True)
  np.testing.assert_allclose(prob_TE, want_TE, atol=6e-5)


@pytest.mark.parametrize('name', sorted(scores.SCORES))
def test_scores_and_gradients_are_finite_everywhere(name):
  """All logits low, all high, all far apart; the chosen may be of score 0."""
  logits_TE = np.array([
    [-1e30, -1e30, -1e30],
    [-200, -150, -100],
    [-21, -20, -19],
    [100, 200, 1e30],
    [1e30, -1e30, 0],
  ])
  router = TopK(score=name, renormalise=True)

  def total(logits_TE):
    bias = with_bias([0.0, 0.0, 2e30])
    routing = router(tiny.router_input(logits_TE, **bias))
    weight_A = routing.weight_A * jnp.arange(1, 11)
    return weight_A.sum() + jnp.sum(routing.prob_TE[:, 0]), routing

  (_, routing), pull_TE = jax.jit(jax.value_and_grad(total, has_aux=True))(
    jnp.asarray(logits_TE, jnp.float32)
  )
  np.testing.assert_allclose(routing.prob_TE.sum(axis=1), 1, rtol=1e-5)
  assert np.isfinite(routing.weight_A).all()
  assert np.isfinite(pull_TE).all()


SETTINGS = [
  TopK(k=3, score=name, after=after, renormalise=renormalise)
  for name, after, renormalise in itertools.product(
    ('softmax', 'sigmoid', 'sqrt_softplus'), (False, True), (False, True)
  )
]


@pytest.mark.parametrize('router', SETTINGS)
def test_a_bias_moves_the_choice_but_neither_weights_nor_gradients(router):
  """Weights and gradients are those of the formula for the ids chosen."""
  bias_E = np.array([1.0, -2.0, 0.3, 0.0, 0.2, -0.1], np.float32)
  pull_TK = RNG.normal(size=(40, 3)).astype(np.float32)
  score = scores.SCORES[router.score]

  def routed(logits_TE, bias_E):
    routing = router(tiny.router_input(logits_TE, **with_bias(bias_E)))
    weight_TK = routing.weight_A.reshape(3, 40).T
    return jnp.vdot(weight_TK, pull_TK), routing

  (_, routing), (pull_TE, pull_E) = jax.value_and_grad(
    routed, argnums=(0, 1), has_aux=True
  )(RANDOM_TE, bias_E)
  expert_TK = by_token(routing.expert_A, 3)
  np.testing.assert_array_equal(pull_E, 0)

  def formula(logits_TE):
    gate_TK = score(logits_TE)[0][np.arange(40)[:, None], expert_TK]
    if router.after:
      gate_TK = score(logits_TE[np.arange(40)[:, None], expert_TK])[0]
    if router.renormalise:
      gate_TK = gate_TK / gate_TK.sum(axis=1, keepdims=True)
    return jnp.vdot(gate_TK, pull_TK), gate_TK

  (_, gate_TK), want_TE = jax.value_and_grad(formula, has_aux=True)(RANDOM_TE)
  np.testing.assert_allclose(by_token(routing.weight_A, 3), gate_TK, rtol=1e-5)
  np.testing.assert_allclose(pull_TE, want_TE, rtol=1e-4, atol=1e-6)
  # What was chosen is the best of logit or score plus bias.
  base_TE = RANDOM_TE if router.after else np.asarray(score(RANDOM_TE)[0])
  for t, total_E in enumerate(base_TE + bias_E):
    assert expert_TK[t].tolist() == references.top(total_E, 3)
  plain_TK = by_token(router(tiny.router_input(RANDOM_TE)).expert_A, 3)
  assert (expert_TK != plain_TK).any()
  np.testing.assert_array_equal(routing.extra['unbiased_TK'], plain_TK)
  assert routing.extra['unbiased_TK'].dtype == jnp.float32


def test_the_unbiased_choice_of_padding_is_nowhere():
  routing = tiny.route(
    SIGMOID,
    tiny.router_input(
      LOGITS_TE, valid_T=[True, False, True], **with_bias([0, 0, 9, 0])
    ),
  )
  np.testing.assert_array_equal(
    routing.extra['unbiased_TK'], [[0, 1], [4, 4], [1, 0]]
  )


def test_biases_of_several_rules_add_up():
  bias_E = balance.selection_bias({
    'a': RouterState(jnp.array([0, 0, 0, 0.3])),
    'b': RouterState(kept={'steps': jnp.float32(1)}),
    'c': RouterState(jnp.array([0, 0, 0, 0.4])),
  })
  routing = tiny.route(
    TopK(k=1), tiny.router_input(LOGITS_TE, selection_bias_E=bias_E)
  )
  # .0321 + .7 against .6439; .2875 + .7 against .4740; .1015 + .7 against .4551
  np.testing.assert_array_equal(routing.expert_A, [3, 3, 3])


@pytest.mark.parametrize(
  'router', [SIGMOID, TopK(renormalise=True), TopK(after=True)]
)
def test_dropped_experts_are_out_of_question_in_training(router):
  """The choice is among what is left, of which there may be too little."""
  router = dataclasses.replace(router, expert_dropout=0.6)
  given = tiny.router_input(RANDOM_TE, key=KEY)
  routing = tiny.route(router, given)
  left_TE = np.asarray(noise.uniform(given, 6, 1)) >= 0.6
  assert set(left_TE.sum(axis=1)) >= {0, 1, 2, 3}
  score = scores.SCORES[router.score]
  score_TE = np.asarray(score(RANDOM_TE)[0])
  gate_TE = gates(routing)
  assert np.isfinite(gate_TE).all()
  for t, left_E in enumerate(left_TE):
    ids = [i for i in references.top(RANDOM_TE[t], 6) if left_E[i]][:2]
    assert np.flatnonzero(gate_TE[t]).tolist() == sorted(ids)
    want = score_TE[t, ids]
    if router.after or router.renormalise:
      want = want / want.sum()
    np.testing.assert_allclose(gate_TE[t, ids], want, rtol=1e-5)
  calm = tiny.router_input(RANDOM_TE)
  none = dataclasses.replace(router, expert_dropout=0.0)
  np.testing.assert_array_equal(
    tiny.route(router, calm).expert_A, none(calm).expert_A
  )


def test_experts_are_dropped_as_often_as_asked():
  """Each with probability 0.1: 4,000 draws, four deviations."""
  num, rate = 1000, 0.1
  given = tiny.router_input(np.tile([2.0, 1, 0, -1], (num, 1)), key=KEY)
  routing = tiny.route(TopK(k=4, score='sigmoid', expert_dropout=rate), given)
  dropped = (np.asarray(routing.expert_A) == 4).mean()
  spread = np.sqrt(rate * (1 - rate) / (4 * num))
  assert abs(dropped - rate) < 4 * spread


def test_huge_scores_stay_finite():
  routing = tiny.route(TopK(k=2), tiny.router_input([[1e30, -1e30, 0.0]]))
  np.testing.assert_array_equal(routing.weight_A, [1, 0])


def test_k_must_fit_the_experts():
  TopK(k=4).check(4)
  with pytest.raises(errors.InputError) as error:
    TopK(k=5).check(4)
  assert str(error.value) == (
    'router.k=5 experts per token, but there are 4 routed experts; '
    'use at most 4'
  )


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'scales_input': True}, 'with router.k=2: an input is scaled for one'),
  ],
)
def test_bad_fields(fields, message):
  with pytest.raises(errors.InputError, match=message):
    TopK(**fields).check(4)


def test_a_laptops_router_keeps_its_rule():
  router = TopK(k=8, score='sigmoid', renormalise=True, scale=2.5)
  assert router.shrunk(4) == dataclasses.replace(router, k=2)
  assert router.shrunk(1).k == 1
