import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import references, tiny
from scipy import optimize

from moejax.core import errors
from moejax.moe.dispatchers.capacity import Capacity
from moejax.moe.routers import expert_choice
from moejax.moe.routers.expert_choice import ExpertChoice

KEY = jax.random.key(3)
S, E = 12, 4
RNG = np.random.default_rng(0)
LOGITS_TE = (2 * RNG.normal(size=(2 * S, E))).astype(np.float32)
VALID_T = ~np.isin(np.arange(2 * S), [0, 5, 20, 21, 22, 23])


@functools.partial(jax.jit, static_argnums=0)
def route(router, given):
  return router(given)


def of(router, logits_TE=LOGITS_TE, valid_T=None, key=None, row_length=S):
  given = tiny.router_input(
    logits_TE, valid_T=valid_T, key=key, row_length=row_length
  )
  return jax.device_get(route(router, given))


def sent(routing):
  """{(token, expert): weight}, each pair once."""
  found = {}
  for token, expert, weight in zip(
    routing.token_A, routing.expert_A, routing.weight_A, strict=True
  ):
    if expert < routing.prob_TE.shape[1]:
      assert (token, expert) not in found
      found[int(token), int(expert)] = weight
  return found


def test_the_worked_example():
  """Each of four experts takes the best of three tokens; token 1 gets two."""
  logits_TE = [[2, 1, 0, -1], [0, 1, 2, 1.5], [1, 1.5, 0.5, 0]]
  routing = of(ExpertChoice(capacity_factor=4 / 3), logits_TE, row_length=3)
  np.testing.assert_array_equal(routing.expert_A, [0, 1, 2, 3])
  np.testing.assert_array_equal(routing.token_A, [0, 2, 1, 1])
  np.testing.assert_allclose(
    routing.weight_A, [0.6439, 0.4551, 0.4740, 0.2875], atol=5e-5
  )


@pytest.mark.parametrize('factor', [0.5, 1.0, 2.0, 4.0])
def test_every_expert_takes_its_best_of_each_sequence(factor):
  routing = of(ExpertChoice(factor), valid_T=VALID_T)
  capacity = round(S * factor / E)
  want = {}
  for first in (0, S):
    valid = [t for t in range(first, first + S) if VALID_T[t]]
    prob = {t: references.softmax(LOGITS_TE[t]) for t in valid}
    for e in range(E):
      column = [prob[t][e] for t in valid]
      for place in references.top(column, min(capacity, len(valid))):
        want[valid[place], e] = column[place]
  got = sent(routing)
  assert got.keys() == want.keys()
  for pair, weight in want.items():
    np.testing.assert_allclose(got[pair], weight, rtol=1e-5)
  # Perfectly balanced, whatever the logits.
  load_E = np.bincount([e for _, e in got], minlength=E)
  assert (load_E == min(capacity, 10) + min(capacity, 8)).all()


def test_fewer_tokens_than_places():
  valid_T = np.arange(2 * S) == 7
  routing = of(ExpertChoice(2.0), valid_T=valid_T)
  assert set(sent(routing)) == {(7, e) for e in range(E)}
  nowhere_A = routing.expert_A == E
  np.testing.assert_array_equal(routing.weight_A[nowhere_A], 0)
  # A whole list all the same, its length known before the tokens.
  assert len(routing.token_A) == 2 * E * 6


def test_an_expert_with_less_room_keeps_its_best():
  """The list is in order of rank, so half the capacity drops the lower half."""
  routing = of(ExpertChoice(2.0))
  given = jnp.zeros((2 * S, 3))
  _, _, note = Capacity(0.5).dispatch(given, routing, E)
  kept_A = np.asarray(note.row_A) < 2 * E * 3
  best = sent(of(ExpertChoice(1.0)))
  pairs = zip(routing.token_A[kept_A], routing.expert_A[kept_A], strict=True)
  assert {(int(t), int(e)) for t, e in pairs} == set(best)


def test_sequences_and_padding_change_nothing():
  router = ExpertChoice(max_per_token=2)
  whole = sent(of(router, valid_T=VALID_T))
  other_TE = np.where(VALID_T[:, None], LOGITS_TE, 30 * LOGITS_TE[::-1])
  assert sent(of(router, other_TE, VALID_T)) == whole
  second = sent(of(router, LOGITS_TE[S:], VALID_T[S:]))
  assert second.keys() == {(t - S, e) for t, e in whole if t >= S}


def load_of_tokens(routing):
  return np.bincount([t for t, _ in sent(routing)], minlength=2 * S)


def test_a_cap_holds():
  """Without it some tokens have all experts."""
  assert load_of_tokens(of(ExpertChoice(2.0))).max() == E
  for most in (2, 3):
    routing = of(ExpertChoice(2.0, max_per_token=most), valid_T=VALID_T)
    assert load_of_tokens(routing).max() == most
    assert (load_of_tokens(routing)[~VALID_T] == 0).all()


def capped_optimum(score_SE, capacity, most):
  """The largest sum of scores under the constraints, by linear programming."""
  tokens, experts = score_SE.shape
  by_expert = np.tile(np.eye(experts), tokens)
  by_token = np.repeat(np.eye(tokens), experts, axis=1)
  found = optimize.linprog(
    -score_SE.reshape(-1),
    A_eq=by_expert,
    b_eq=np.full(experts, capacity),
    A_ub=by_token,
    b_ub=np.full(tokens, most),
    bounds=(0, 1),
  )
  return -found.fun


def test_the_capped_choice_is_near_the_linear_program():
  """And above what the best of everybody, cut to the cap, would give."""
  most = 2
  router = ExpertChoice(2.0, max_per_token=most, entropy=0.01)
  got = sum(sent(of(router, LOGITS_TE[:S])).values())
  prob_SE = np.asarray(jax.nn.softmax(LOGITS_TE[:S], axis=1), np.float64)
  best = capped_optimum(prob_SE, 6, most)
  assert 0.97 * best < got <= best * (1 + 1e-6)
  free = sent(of(ExpertChoice(2.0), LOGITS_TE[:S]))
  cut = sum(
    sum(sorted((w for (t, _), w in free.items() if t == token))[-most:])
    for token in range(S)
  )
  assert got > cut


capped_plan = jax.jit(expert_choice.capped_plan, static_argnums=(2, 3))


@pytest.mark.parametrize(
  ('num_valid', 'capacity', 'column'), [(12, 5, 5), (8, 5, 4), (3, 2, 1.5)]
)
def test_the_plan_fulfils_the_constraints(num_valid, capacity, column):
  """Two experts a token: 8 tokens have 16 choices, 4 for each expert."""
  prob_SE = jax.nn.softmax(LOGITS_TE[:S], axis=1)
  valid_S = np.arange(S) < num_valid
  plan_SE = np.exp(capped_plan(prob_SE / 0.1, valid_S, capacity, 2))
  np.testing.assert_allclose(plan_SE.sum(axis=0), column, rtol=2e-3)
  assert plan_SE.sum(axis=1).max() <= 2 + 1e-3
  assert plan_SE.max() <= 1 + 1e-5
  np.testing.assert_array_equal(plan_SE[~valid_S], 0)


def test_the_plan_is_the_best_of_those():
  """Against a general optimiser; all three constraints bind."""
  score_SE = np.array([
    [5, 1, 3.0],
    [4, 3, 0],
    [3, 3.5, 2],
    [0, 1, 1],
    [1, 0, 0],
    [4, 4, 4],
  ])
  plan_SE = np.exp(capped_plan(score_SE, np.ones(6, bool), 3, 2))

  def loss(plan):
    return np.sum(plan * np.log(plan)) - np.vdot(plan, score_SE.reshape(-1))

  found = optimize.minimize(
    loss,
    np.full(18, 0.5),
    bounds=[(1e-9, 1)] * 18,
    constraints=[
      {'type': 'eq', 'fun': lambda plan: plan.reshape(6, 3).sum(axis=0) - 3},
      {'type': 'ineq', 'fun': lambda plan: 2 - plan.reshape(6, 3).sum(axis=1)},
    ],
    options={'ftol': 1e-10, 'maxiter': 300},
  )
  assert found.success
  want_SE = found.x.reshape(6, 3)
  assert (want_SE > 0.999).any()
  assert (want_SE.sum(axis=1) > 1.999).any()
  np.testing.assert_allclose(plan_SE, want_SE, atol=2e-3)


def test_gradient_goes_through_the_weights_alone():
  router = ExpertChoice(max_per_token=2)
  given = tiny.router_input(LOGITS_TE, valid_T=VALID_T, row_length=S)
  routing = of(router, valid_T=VALID_T)
  pull_A = RNG.normal(size=len(routing.weight_A)).astype(np.float32)

  def pulled(logits_TE):
    found = router(given.replace(logits_TE=logits_TE))
    return jnp.vdot(found.weight_A, pull_A)

  def by_hand(logits_TE):
    prob_TE = jax.nn.softmax(logits_TE, axis=1)
    used_A = routing.expert_A < E
    weight_A = prob_TE[routing.token_A, np.minimum(routing.expert_A, E - 1)]
    return jnp.vdot(jnp.where(used_A, weight_A, 0.0), pull_A)

  got_TE = jax.jit(jax.grad(pulled))(LOGITS_TE)
  want_TE = jax.jit(jax.grad(by_hand))(LOGITS_TE)
  np.testing.assert_allclose(got_TE, want_TE, rtol=1e-4, atol=1e-6)
  assert np.isfinite(got_TE).all()
  np.testing.assert_array_equal(np.asarray(got_TE)[~VALID_T], 0)


def test_noise_in_training_alone():
  router = ExpertChoice(noise=1.0)
  plain = sent(of(ExpertChoice()))
  assert sent(of(router)) == plain
  assert sent(of(ExpertChoice(), key=KEY)) == plain
  noisy = of(router, key=KEY)
  difference_TE = np.log(noisy.prob_TE) - np.asarray(
    jax.nn.log_softmax(LOGITS_TE)
  )
  # Softmax takes the mean off; what is left of noise of deviation 1/E.
  noise_TE = difference_TE - difference_TE.mean(axis=1, keepdims=True)
  assert 0.7 / E < noise_TE.std() < 1.1 / E


def test_a_causal_model_must_ask_for_it_by_name():
  assert not ExpertChoice().causal
  assert not ExpertChoice().not_causal
  assert ExpertChoice(not_causal=True).not_causal


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (
      {'max_per_token': 1},
      'max_per_token=1 must be 0, for any number, or at least '
      'capacity_factor=2.0',
    ),
  ],
)
def test_bad_fields(fields, message):
  with pytest.raises(errors.InputError) as error:
    ExpertChoice(**fields)
  assert str(error.value) == message


def test_more_experts_per_token_than_experts():
  ExpertChoice(5.0).check(5)
  with pytest.raises(errors.InputError) as error:
    ExpertChoice(5.0).check(4)
  assert str(error.value) == (
    'router.capacity_factor=5.0 experts per token, but there are 4'
  )
  assert ExpertChoice(5.0).shrunk(4).capacity_factor == 4
