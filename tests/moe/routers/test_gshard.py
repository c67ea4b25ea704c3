"""GShard against its Algorithm 1, written line by line."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import references, tiny

from moejax.moe.balance import BALANCE
from moejax.moe.dispatchers.capacity import Capacity
from moejax.moe.routers import gshard, noise
from moejax.moe.routers.gshard import GShard

KEY = jax.random.key(3)


def algorithm_1(gate_SE, rnd_S, capacity):
  """Lines 1 to 25 for one local group: G_SE and the auxiliary loss.

  gate_SE are the raw softmax gates; without rnd_S every second is sent.
  """
  S, E = np.shape(gate_SE)
  c_E = [0] * E
  G_SE = np.zeros((S, E))
  m_E = np.mean(gate_SE, axis=0)
  for s in range(S):
    e1, e2 = references.top(gate_SE[s], 2)
    g1 = gate_SE[s][e1] / (gate_SE[s][e1] + gate_SE[s][e2])
    c = c_E[e1]
    if c < capacity:
      G_SE[s, e1] = g1
    c_E[e1] = c + 1  # over capacity or not
  aux = np.mean([c / S * m for c, m in zip(c_E, m_E, strict=True)])
  for s in range(S):
    e1, e2 = references.top(gate_SE[s], 2)
    g2 = gate_SE[s][e2] / (gate_SE[s][e1] + gate_SE[s][e2])
    c = c_E[e2]
    if c < capacity and (rnd_S is None or 2 * g2 > rnd_S[s]):
      G_SE[s, e2] = g2
    c_E[e2] = c + 1  # sent or not
  return G_SE, aux


def found(router, given, factor=1.0):
  """G_TE of router and capacity dispatcher, and the auxiliary loss."""
  routing, has_row_A, aux = jax.device_get(_found(router, factor, given))
  gate_TE = np.zeros(routing.prob_TE.shape)
  for a in np.flatnonzero(has_row_A):
    gate_TE[routing.token_A[a], routing.expert_A[a]] += routing.weight_A[a]
  return gate_TE, aux


@functools.partial(jax.jit, static_argnums=(0, 1))
def _found(router, factor, given):
  routing = router(given)
  num_tokens, num_experts = routing.prob_TE.shape
  x_RD, _, note = Capacity(factor).dispatch(
    jnp.ones((num_tokens, 1)), routing, num_experts
  )
  loss = BALANCE['gshard_aux'](1.0)
  aux = loss.loss(loss.observe(given, routing))
  return routing, note.row_A < len(x_RD), aux


# Four tokens, four experts, so C = 2 S / E = 2:
#        gates               first        second
#   t0   .5  .3  .1   .1     0: 5/8       1: 3/8
#   t1   .6  .2  .1   .1     0: 3/4       1: 1/4
#   t2   .4  .1  .3   .2     0: 4/7       2: 3/7
#   t3   .1  .5  .35  .05    1: 10/17     2: 7/17
# First choices: expert 0 is sent t0 and t1; t2 is third and dropped, but
# counted. Expert 1 is sent t3. Second choices: t0 is the second at expert 1 and
# sent, t1 the third and dropped; t2 and t3 are sent to expert 2.
GATE_SE = np.array([
  [0.5, 0.3, 0.1, 0.1],
  [0.6, 0.2, 0.1, 0.1],
  [0.4, 0.1, 0.3, 0.2],
  [0.1, 0.5, 0.35, 0.05],
])
SENT_SE = np.array([
  [5 / 8, 3 / 8, 0, 0],
  [3 / 4, 0, 0, 0],
  [0, 0, 3 / 7, 0],
  [0, 10 / 17, 7 / 17, 0],
])
# c = (3, 1, 0, 0), m_0 = (.5 + .6 + .4 + .1) / 4 = .4, m_1 = 1.1 / 4 = .275;
# aux = 1/4 (3/4 * .4 + 1/4 * .275) = .0921875, and 16 times that is 1.475.
AUX = 1.475


def test_worked_example():
  gate_SE, aux = found(GShard(), tiny.router_input(np.log(GATE_SE)))
  np.testing.assert_allclose(gate_SE, SENT_SE, rtol=1e-6)
  np.testing.assert_allclose(aux, AUX, rtol=1e-6)
  simulated, aux = algorithm_1(GATE_SE, None, capacity=2)
  np.testing.assert_allclose(simulated, SENT_SE)
  np.testing.assert_allclose(16 * aux, AUX)


def only_the_first_second_stays_at_home():
  """A key by which of the second choices t0's is the one not to be used."""
  uniform = jax.jit(lambda given: noise.uniform(given, 1)[:, 0])
  given = tiny.router_input(np.log(GATE_SE), key=KEY)
  for seed in range(200):
    given = dataclasses.replace(given, key=jax.random.key(seed))
    rnd_S = uniform(given)
    if rnd_S[0] > 0.75 and (rnd_S[1:] < np.array([0.5, 6 / 7, 14 / 17])).all():
      return given
  raise AssertionError('no key makes this noise')


def test_a_second_choice_that_is_not_sent_takes_its_place():
  """t0's second gate: 2 * 3/8 = .75 < rnd, so it stays at home. Its place at
  expert 1 is counted, so t1 (.5 > rnd) is dropped there all the same.
  """
  given = only_the_first_second_stays_at_home()
  want_SE = SENT_SE.copy()
  want_SE[0, 1] = 0
  gate_SE, aux = found(GShard(), given)
  np.testing.assert_allclose(gate_SE, want_SE, rtol=1e-6)
  np.testing.assert_allclose(aux, AUX, rtol=1e-6)


def test_a_second_choice_that_is_not_sent_uses_no_place_in_released_code():
  """As above, but t1 finds the place at expert 1 that t0 has left."""
  want_SE = SENT_SE.copy()
  want_SE[0, 1] = 0
  want_SE[1, 1] = 1 / 4
  router = GShard(dropped_use_slot=False)
  gate_SE, aux = found(router, only_the_first_second_stays_at_home())
  np.testing.assert_allclose(gate_SE, want_SE, rtol=1e-6)
  np.testing.assert_allclose(aux, AUX, rtol=1e-6)


@pytest.mark.parametrize('key', [None, KEY], ids=['calm', 'noise'])
def test_algorithm_1(key):
  """Four rows of six tokens, each a group of its own, with padding."""
  rng = np.random.default_rng(0)
  E, L = 4, 6
  logits_TE = (rng.normal(size=(24, E)) + [2, 1, 0, 0]).astype(np.float32)
  valid_T = rng.uniform(size=24) > 0.2
  given = tiny.router_input(logits_TE, valid_T=valid_T, key=key, row_length=L)
  rnd_T = None if key is None else np.asarray(noise.uniform(given, 1))[:, 0]
  size = L
  want_TE, aux = np.zeros((24, E)), []
  for start in range(0, 24, size):
    # Padding is not there: the algorithm sees the other tokens.
    s = [t for t in range(start, start + size) if valid_T[t]]
    gate_SE = [references.softmax(logits_TE[t].astype(np.float64)) for t in s]
    rnd_S = None if rnd_T is None else rnd_T[s]
    want_TE[s], one = algorithm_1(gate_SE, rnd_S, capacity=2 * size // E)
    aux.append(one)
  gate_TE, got = found(GShard(), given)
  np.testing.assert_allclose(gate_TE, want_TE, rtol=1e-5)
  np.testing.assert_allclose(got, E**2 * np.mean(aux), rtol=1e-5)
  # Some tokens lose a choice, others do not.
  assert {1, 2} <= set((gate_TE > 0).sum(axis=1)[valid_T])


def test_room_is_two_tokens_per_expert_and_grows_with_the_factor():
  """All tokens choose the same two: C of each are sent, the first ones."""
  logits_TE = np.tile([9.0, 8.0, 0.0, 0.0], (12, 1))
  for factor, room in ((1.0, 6), (0.5, 3), (1.25, 8), (2.0, 12)):
    gate_TE, _ = found(GShard(), tiny.router_input(logits_TE), factor)
    for expert in (0, 1):
      np.testing.assert_array_equal(
        gate_TE[:, expert] > 0, np.arange(12) < room
      )


@pytest.mark.parametrize('g2', [0.1, 0.3, 0.5])
def test_a_second_is_sent_with_probability_twice_its_gate(g2):
  """min(1, 2 g2), g2 the normalised gate: 4,000 draws, four deviations."""
  num = 4000
  raw_E = [0.95 * (1 - g2), 0.95 * g2, 0.05]  # divided by 0.95 again
  given = tiny.router_input(np.log(np.tile(raw_E, (num, 1))), key=KEY)
  routing = jax.jit(GShard())(given)
  np.testing.assert_allclose(routing.weight_A[:num], 1 - g2, rtol=1e-5)
  sent = np.asarray(routing.weight_A[num:]) > 0
  chance = min(1.0, 2 * g2)
  spread = np.sqrt(chance * (1 - chance) / num)
  assert abs(sent.mean() - chance) <= 4 * spread
  np.testing.assert_allclose(routing.weight_A[num:][sent], g2, rtol=1e-5)


# Top two gates over their sum: (.7311 .2689), (.6225 .3775), (.6225 .3775);
# g2 / g1 = e^-1 = .3679, e^-.5 = .6065, e^-.5.
LOGITS_TE = np.array([
  [2.0, 1.0, 0.0, -1.0],
  [0.0, 1.0, 2.0, 1.5],
  [1.0, 1.5, 0.5, 0.0],
])


@pytest.mark.parametrize('key', [None, KEY], ids=['calm', 'noise'])
@pytest.mark.parametrize(
  ('second', 'used_T'),
  [
    (gshard.SecondAlways(), [1, 1, 1]),
    (gshard.SecondNever(), [0, 0, 0]),
    (gshard.SecondByChance(0.2), [1, 1, 1]),
    (gshard.SecondByChance(0.0), [1, 1, 1]),
    (gshard.SecondAboveThreshold(0.2), [1, 1, 1]),
    (gshard.SecondAboveThreshold(0.3), [0, 1, 1]),
    (gshard.SecondAboveRatio(0.3), [1, 1, 1]),
    (gshard.SecondAboveRatio(0.4), [0, 1, 1]),
    (gshard.SecondAboveRatio(0.7), [0, 0, 0]),
  ],
  ids=str,
)
@pytest.mark.parametrize('slot', [True, False])
def test_which_second_choices_are_used(second, used_T, slot, key):
  router = GShard(second=second, dropped_use_slot=slot)
  # Not compiled whole: 36 cases have most operations in common.
  routing = router(tiny.router_input(LOGITS_TE, key=key))
  np.testing.assert_allclose(
    routing.weight_A,
    [0.7311, 0.6225, 0.6225, *(np.array([0.2689, 0.3775, 0.3775]) * used_T)],
    atol=6e-5,
  )
  keeps = slot and router.experts_per_token == 2
  free_T = (np.asarray(used_T) == 0) & (not keeps)
  want_T = np.where(free_T, 4, [1, 3, 0])
  np.testing.assert_array_equal(routing.expert_A, [0, 2, 1, *want_T])


def test_never_using_the_second_is_one_expert_per_token():
  assert GShard(second=gshard.SecondNever()).experts_per_token == 1
  assert GShard().experts_per_token == 2


def test_a_fifth_of_the_first_is_a_sixth_of_both():
  """ST-MoE's text against Mesh TensorFlow's threshold."""
  gate_TE = np.array([[0.835, 0.165, 1e-9], [0.83, 0.17, 1e-9]])
  used = lambda second: np.asarray(
    tiny.route(
      GShard(second=second), tiny.router_input(np.log(gate_TE))
    ).weight_A[2:]
    > 0
  ).tolist()
  assert used(gshard.SecondAboveRatio(0.2)) == [False, True]
  assert used(gshard.SecondAboveThreshold(0.2)) == [False, False]
  assert used(gshard.SecondAboveThreshold(0.16)) == [True, True]


@pytest.mark.parametrize(('threshold', 'chance'), [(0.4, 0.25), (0.1, 1.0)])
def test_a_second_is_sent_with_probability_of_gate_over_threshold(
  threshold, chance
):
  num = 4000
  given = tiny.router_input(np.log(np.tile([0.9, 0.1], (num, 1))), key=KEY)
  router = GShard(
    second=gshard.SecondByChance(threshold), dropped_use_slot=False
  )
  sent = np.asarray(tiny.route(router, given).expert_A[num:]) < 2
  spread = np.sqrt(chance * (1 - chance) / num)
  assert abs(sent.mean() - chance) <= 4 * spread


@pytest.mark.parametrize(
  ('logits', 'chance'),
  [([2, 1, 0, -1], 0.5379), ([0, 1, 2, 1.5], 0.7551)],
)
def test_worked_chances_of_algorithm_1(logits, chance):
  """Gates .7311 .2689 and .6225 .3775 of the two: twice the second."""
  num = 20_000
  given = tiny.router_input(np.tile(logits, (num, 1)), key=KEY)
  routing = tiny.route(GShard(dropped_use_slot=False), given)
  gate = float(tiny.route(GShard(), tiny.router_input([logits])).weight_A[1])
  assert 2 * gate == pytest.approx(chance, abs=5e-5)
  sent = np.asarray(routing.expert_A[num:]) < 4
  spread = np.sqrt(chance * (1 - chance) / num)
  assert abs(sent.mean() - chance) <= 4 * spread


def test_the_second_is_sampled_by_the_rest_of_the_probabilities():
  """.3, .15 and .05 over .5: 4,000 draws, four deviations."""
  num = 4000
  prob_E = np.array([0.5, 0.3, 0.15, 0.05])
  given = tiny.router_input(np.log(np.tile(prob_E, (num, 1))), key=KEY)
  routing = jax.jit(GShard(second=gshard.SecondDrawn()))(given)
  first_T, second_T = np.asarray(routing.expert_A).reshape(2, num)
  assert (first_T == 0).all()
  for expert, chance in ((0, 0.0), (1, 0.6), (2, 0.3), (3, 0.1)):
    spread = np.sqrt(chance * (1 - chance) / num)
    assert abs((second_T == expert).mean() - chance) <= 4 * spread
  gate_T = prob_E[second_T] / (0.5 + prob_E[second_T])
  np.testing.assert_allclose(routing.weight_A[num:], gate_T, rtol=1e-5)
  calm = tiny.route(
    GShard(second=gshard.SecondDrawn()), dataclasses.replace(given, key=None)
  )
  assert set(np.asarray(calm.expert_A[num:])) == {1}


def test_a_bias_moves_the_choice_but_not_the_gates():
  bias_E = jnp.array([0, 0, 0, 0.3])
  routing = tiny.route(
    GShard(), tiny.router_input(LOGITS_TE, selection_bias_E=bias_E)
  )
  # .0321 + .3 beats .2369; .2875 + .3 beats .4740; .1015 + .3 beats .2760
  np.testing.assert_array_equal(routing.expert_A, [0, 3, 1, 3, 2, 3])
  np.testing.assert_allclose(
    routing.weight_A,
    [0.9526, 0.3775, 0.8176, 0.0474, 0.6225, 0.1824],
    atol=6e-5,
  )


def test_gates_of_the_two_are_renormalised_and_stay_when_one_is_dropped():
  gate_SE, _ = found(GShard(), tiny.router_input(np.log(GATE_SE)))
  np.testing.assert_allclose(gate_SE[[0, 3]].sum(axis=1), 1, rtol=1e-6)
  # t1 lost its second choice, and keeps 3/4 for its first.
  np.testing.assert_allclose(gate_SE[1].sum(), 0.75, rtol=1e-6)
