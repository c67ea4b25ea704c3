"""Room, places and drops of the capacity dispatcher, by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.core import errors
from moejax.moe import contract, feed_forward, layer
from moejax.moe.config import MoEConfig
from moejax.moe.dispatchers.capacity import Capacity
from moejax.moe.dispatchers.dropless import Dropless
from moejax.moe.expert_parallel import EXPERT_PARALLEL
from moejax.moe.feed_forward import TokenInfo


def routing_of(expert_TK, weight_TK, choices, row_length=None):
  """A list in which tokens choose these."""
  expert_TK = jnp.asarray(expert_TK)
  num_tokens = len(expert_TK)
  given = tiny.router_input(
    np.zeros((num_tokens, choices)), row_length=row_length
  )
  return contract.token_choice(
    given,
    expert_TK,
    jnp.asarray(weight_TK, jnp.float32),
    jnp.zeros((num_tokens, choices)),
  )


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _limited(dispatcher, routing, num_experts, training):
  return dispatcher.limit(routing, num_experts, training)


def limit(dispatcher, routing, num_experts, training=True):
  """What a dispatcher leaves of a list, in numpy, by one program."""
  return jax.device_get(_limited(dispatcher, routing, num_experts, training))


@pytest.mark.parametrize(('k', 'room', 'room_zero'), [(1, 3, 4), (2, 6, 8)])
def test_room_with_choices_without_computation(k, room, room_zero):
  """MoE++: T = 12, two experts and two others, factor 1.1, tau .75.

  1.1 * .75 * 12 / (.75 * 2 + 2) = 2.83 for an expert and 12 * 1.1 / 3.5 = 3.77
  for another choice, by the paper's equation, in which k is not; here it is
  per assignment, so that k = 2 has 5.66 and 7.54.
  """
  dispatcher = Capacity(factor=1.1, tau=0.75)
  for choice, has in ((1, room), (2, room_zero)):
    expert_TK = np.full((12, k), 4)
    expert_TK[:, 0] = choice
    routing = routing_of(expert_TK, np.ones((12, k)), 4)
    limited = limit(dispatcher, routing, 2)
    kept_A = limited.expert_A == choice
    np.testing.assert_array_equal(np.flatnonzero(kept_A), np.arange(has))
    assert limited.room == room


def test_priority_by_probability_places_the_largest_weights_first():
  """Experts 2 0 2 2 with weights .2 .5 .9 .3, room for two: in the order of the
  list the last of expert 2 is dropped, by weight the first. Its rows are 4, 5.
  """
  expert_TK, weight_TK = [[2], [0], [2], [2]], [[0.2], [0.5], [0.9], [0.3]]
  routing = routing_of(expert_TK, weight_TK, 3)
  want = {
    'position': ([2, 0, 2, 3], [4, 0, 5, 6]),
    'probability': ([3, 0, 2, 2], [6, 0, 4, 5]),
  }
  for priority, (expert_A, row_A) in want.items():
    dispatcher = Capacity(factor=1.5, priority=priority)
    limited = limit(dispatcher, routing, 3)
    np.testing.assert_array_equal(limited.expert_A, expert_A)
    assert limited.room == 2
    x_TD = jnp.arange(1.0, 5.0)[:, None]
    x_RD, _, note = dispatcher.dispatch(x_TD, limited, 3)
    np.testing.assert_array_equal(note.row_A, row_A)
    out_TD = dispatcher.combine(x_RD, limited, note, 4)
    kept_T = np.asarray(expert_A) < 3
    want_TD = np.asarray(weight_TK) * np.asarray(x_TD) * kept_T[:, None]
    np.testing.assert_allclose(out_TD, want_TD, rtol=1e-6)


def test_sequences_do_not_compete_by_probability():
  """Two rows of two tokens, all at expert 0, room for one of each row."""
  routing = routing_of(
    np.zeros((4, 1), int), [[0.2], [0.5], [0.1], [0.05]], 2, 2
  )
  limited = limit(Capacity(priority='probability'), routing, 2)
  np.testing.assert_array_equal(limited.expert_A, [2, 0, 0, 2])


def batch_prioritised(expert_TK, weight_TK, num_experts, room):
  """V-MoE's algorithm 2: who is kept, token by token and choice by choice."""
  kept_TK = np.zeros(expert_TK.shape, bool)
  order_T = sorted(range(len(expert_TK)), key=lambda t: -max(weight_TK[t]))
  taken_E = [0] * num_experts
  for choice in range(expert_TK.shape[1]):
    for token in order_T:
      expert = expert_TK[token, choice]
      if expert < num_experts and taken_E[expert] < room:
        kept_TK[token, choice] = True
        taken_E[expert] += 1
  return kept_TK


def kept(dispatcher, routing, num_experts):
  """Who is kept [T, K], and the room."""
  limited = limit(dispatcher, routing, num_experts)
  kept_A = limited.expert_A < num_experts
  return kept_A.reshape(routing.per_token, -1).T, limited.room


def test_batch_prioritised_and_probability_differ_for_two_choices():
  """Three tokens, the experts' room is two: ceil(3 * 2 / 3) at factor 1.

  Expert 0 is the first choice of token 2 and the second of tokens 0, with .4,
  and 1, with .3. By probability token 0 gets the place that is left; V-MoE
  gives it to token 1, whose largest weight is .6, token 0's being .5. Expert 2
  is the first choice of tokens 0 and 1, so token 2's second is dropped.
  """
  expert_TK = [[2, 0], [2, 0], [0, 2]]
  weight_TK = [[0.5, 0.4], [0.6, 0.3], [0.9, 0.1]]
  routing = routing_of(expert_TK, weight_TK, 3)
  want = {
    'probability': [[1, 1], [1, 0], [1, 0]],
    'batch_prioritised': [[1, 0], [1, 1], [1, 0]],
  }
  for priority, want_TK in want.items():
    kept_TK, room = kept(Capacity(priority=priority), routing, 3)
    assert room == 2
    np.testing.assert_array_equal(kept_TK, want_TK)
  # A first choice of little weight goes before a second one of much.
  routing = routing_of([[0, 1], [1, 0]], [[0.5, 0.45], [0.3, 0.2]], 2)
  for priority, want_TK in (
    ('probability', [[1, 1], [0, 0]]),
    ('batch_prioritised', [[1, 0], [1, 0]]),
  ):
    dispatcher = Capacity(factor=0.5, priority=priority)
    kept_TK, room = kept(dispatcher, routing, 2)
    assert room == 1
    np.testing.assert_array_equal(kept_TK, want_TK)


@pytest.mark.parametrize('k', [1, 2, 3])
def test_batch_prioritised_against_the_papers_algorithm(k):
  """Random gates in three rows, each a group, with padding and few places."""
  rng = np.random.default_rng(k)
  gate_TE = rng.dirichlet(np.ones(5), size=36)
  expert_TK = np.argsort(-gate_TE, axis=1)[:, :k]
  expert_TK[rng.random(36) < 0.1] = 5
  weight_TK = np.take_along_axis(gate_TE, np.minimum(expert_TK, 4), axis=1)
  routing = routing_of(expert_TK, weight_TK, 5, row_length=12)
  dispatcher = Capacity(factor=0.6, priority='batch_prioritised')
  kept_TK, room = kept(dispatcher, routing, 5)
  want_TK = np.concatenate([
    batch_prioritised(expert_TK[r : r + 12], weight_TK[r : r + 12], 5, room)
    for r in (0, 12, 24)
  ])
  np.testing.assert_array_equal(kept_TK, want_TK)
  by_weight = Capacity(factor=0.6, priority='probability')
  other_TK, _ = kept(by_weight, routing, 5)
  assert (other_TK == want_TK).all() == (k == 1)


# Eight tokens, four experts: 1.25 * 8 / 4 = 2.5, so 3 places; 2 * 8 / 4 = 4.
CHOSEN = [0, 0, 0, 1, 0, 2, 3, 3]


def limited_to(dispatcher, *, training):
  """Who is kept of those tokens, and the room."""
  routing = routing_of(np.array(CHOSEN)[:, None], np.ones((8, 1)), 4)
  limited = limit(dispatcher, routing, 4, training)
  x_RD, size_E, note = dispatcher.dispatch(jnp.ones((8, 1)), limited, 4)
  np.testing.assert_array_equal(size_E, [limited.room] * 4)
  kept_A = np.asarray(note.row_A) < len(x_RD)
  np.testing.assert_array_equal(limited.expert_A < 4, kept_A)
  return kept_A, limited.room


def test_evaluation_has_a_room_of_its_own():
  """Four tokens want expert 0: the last finds no place in training alone."""
  dispatcher = Capacity(factor=1.25, eval_factor=2.0)
  kept_A, room = limited_to(dispatcher, training=True)
  assert room == 3
  np.testing.assert_array_equal(kept_A, np.arange(8) != 4)
  kept_A, room = limited_to(dispatcher, training=False)
  assert room == 4
  assert kept_A.all()


def test_without_a_factor_of_its_own_evaluation_is_as_training():
  kept_A, room = limited_to(Capacity(factor=1.25), training=False)
  assert room == 3
  np.testing.assert_array_equal(kept_A, np.arange(8) != 4)


# Four experts, two per token: at factor 2 there is room for every token.
BOTH = Capacity(factor=0.5, eval_factor=2.0)
KEYS = {'training': jax.random.key(0), 'evaluation': None}


def run_decoder(dispatcher, mode):
  """The last vectors of a small decoder, and the share dropped by layer."""
  batch = tiny.batch([[12], [5, 7]])
  model = tiny.model(tiny.model_config(moe={'dispatcher': dispatcher}))
  places = batch.token_BL, batch.segment_BL, batch.position_BL

  @jax.jit
  def run(weights, key):
    out = model.bind(weights)(*places, key=key)
    return out.x_BLD, out.record.stats['dropped'].value()

  return run(tiny.weights(model), KEYS[mode])


@functools.cache
def decoded(mode):
  """Of the decoder whose factor of evaluation is its own."""
  return run_decoder(BOTH, mode)


def test_a_decoder_drops_in_training_alone():
  """Without a key the layers have the room of evaluation."""
  assert decoded('training')[1].min() > 0
  assert decoded('evaluation')[1].max() == 0


@pytest.mark.soak
def test_a_decoder_evaluates_with_the_factor_of_evaluation():
  """All is as in a dropless model; in training, as with one factor."""
  small, lost_L = run_decoder(Capacity(factor=0.5), 'evaluation')
  np.testing.assert_array_equal(decoded('training')[0], small)
  np.testing.assert_array_equal(decoded('training')[1], lost_L)
  dropless, _ = run_decoder(Dropless(), 'evaluation')
  np.testing.assert_allclose(decoded('evaluation')[0], dropless, atol=1e-5)


@functools.cache
def trained_and_evaluated(expert_parallel, devices):
  """Output and the share that is dropped, in either mode."""
  rng = np.random.default_rng(2)
  x_BLD = rng.normal(size=(8, 6, 8)).astype(np.float32)
  index_BL = np.arange(48, dtype=np.int32).reshape(8, 6)
  tokens = TokenInfo(index_BL >= 0, index_BL, index_BL)
  config = MoEConfig(
    num_experts=4,
    expert_width=6,
    dispatcher=dataclasses.replace(BOTH, priority='batch_prioritised'),
    expert_parallel=EXPERT_PARALLEL[expert_parallel](),
  )
  mesh = tiny.mesh(8, data=2, expert=4) if devices > 1 else tiny.mesh()
  make = lambda: layer.MoE(config, 8, 1.0, mesh, jax.random.key(0))
  graph, weights = tiny.module(make)

  @functools.partial(jax.jit, static_argnums=0)
  def run(training, weights):
    moe, previous = (
      tiny.bind(graph, weights),
      feed_forward.no_previous_layer(config, 8, 6),
    )
    key = jax.random.key(0) if training else None
    out_BLD, _, record = moe(x_BLD, tokens, previous, key)
    return out_BLD, record.stats['dropped'].value()

  return [run(training, weights) for training in (True, False)]


# One that sends tokens; the others are soak.
QUICK = ('all_to_all',)


@pytest.mark.parametrize(
  'expert_parallel',
  [
    pytest.param(name, marks=[] if name in QUICK else [pytest.mark.soak])
    for name in sorted(EXPERT_PARALLEL)
  ],
)
def test_evaluation_has_its_room_over_the_expert_axis(expert_parallel):
  """Each entry gives what one device gives, in either mode.

  Places are taken in V-MoE's order, which a device knows for its own tokens.
  """
  trained, evaluated = trained_and_evaluated('all_gather', 1)
  assert trained[1] > 0
  assert evaluated[1] == 0
  got = trained_and_evaluated(expert_parallel, 8)
  tiny.assert_close(got, [trained, evaluated], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  ('fields', 'most'),
  [({'factor': 4.1}, 4), ({'eval_factor': 9.0}, 4), ({'factor': 9.0}, 4)],
)
def test_more_room_than_there_are_assignments_is_refused(fields, most):
  Capacity(factor=4.0, eval_factor=4.0).check(4, 4)
  ((key, value),) = fields.items()
  with pytest.raises(errors.InputError) as error:
    Capacity(**fields).check(4, 4)
  assert str(error.value) == (
    f'dispatcher.{key}={value} is room for more than all assignments '
    f'in each of 4 experts; use {most} or less'
  )
  # Beside 3 choices without computation, at tau 0.75: 4 + 3 / 0.75 shares.
  Capacity(factor=8.0, tau=0.75).check(4, 7)
  with pytest.raises(errors.InputError, match='use 8 or less'):
    Capacity(factor=8.1, tau=0.75).check(4, 7)
  shrunk = Capacity(factor=16.0, eval_factor=2.0).shrunk(8)
  assert (shrunk.factor, shrunk.eval_factor) == (8, 2)
