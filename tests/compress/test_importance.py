"""IMPORTANCE: a layer of four experts by hand, and the contract of entries."""

import functools

import numpy as np
import pytest
from helpers import expert_statistics

from moejax.compress.importance import IMPORTANCE, random, scores
from moejax.core import errors

# Four tokens, two experts each: (s_t, {expert: (gate, norm of the output)}).
# Expert 3 is never activated.
EVENTS = [
  (0.5, {0: (0.75, 2), 1: (0.25, 4)}),
  (0.25, {0: (0.5, 1), 2: (0.5, 8)}),
  (0.0, {1: (0.75, 2), 2: (0.25, 4)}),
  (1.0, {1: (0.5, 1), 2: (0.5, 2)}),
]
LAYER = expert_statistics.of_events(EVENTS, 4, np.ones((4, 4)))
WEIGHTS = {'w_DE': np.array([[3.0, 0, 1, 0], [4, 2, 0, 0]])}
BY_HAND = {
  # .75*2*.5 + .5*1*.25; .25*4*.5 + 0 + .5*1*1; .5*8*.25 + 0 + .5*2*1
  'easy_ep': [0.875, 1, 2, 0],
  # .75*.5 + .5*.25; .25*.5 + .5*1; .5*.25 + .5*1
  'easy_ep_no_norm': [0.5, 0.625, 0.625, 0],
  # .75*2 + .5*1; .25*4 + .75*2 + .5*1; .5*8 + .25*4 + .5*2
  'easy_ep_no_token': [2, 3, 6, 0],
  'gate_score': [1.25, 1.5, 1.25, 0],
  'frequency': [2 / 8, 3 / 8, 3 / 8, 0],
  'output_norm': [3, 7, 14, 0],
  'router_norm': [5, 2, 1, 0],
}


def test_every_entry_but_random_is_worked_by_hand():
  assert BY_HAND.keys() == IMPORTANCE.keys() - {'random'}


@pytest.mark.parametrize('name', BY_HAND)
def test_importance_of_four_experts_by_hand(name):
  np.testing.assert_allclose(
    IMPORTANCE[name](LAYER, WEIGHTS, 0), BY_HAND[name], rtol=1e-15
  )


def _weights(layers=3, width=5, experts=4):
  rng = np.random.default_rng(7)
  return [{'w_DE': rng.normal(size=(width, experts))} for _ in range(layers)]


@pytest.mark.parametrize('name', IMPORTANCE)
def test_scores_are_finite_float64_and_at_least_0(name):
  score_NE = scores(name, expert_statistics.random(), _weights())
  assert score_NE.shape == (3, 4)
  assert score_NE.dtype == np.float64
  assert np.all(np.isfinite(score_NE))
  assert np.all(score_NE >= 0)


@pytest.mark.parametrize('name', IMPORTANCE)
def test_scores_of_a_text_without_tokens_are_finite(name):
  nothing = expert_statistics.of_events([], 4, np.zeros((0, 4)))
  assert np.all(np.isfinite(IMPORTANCE[name](nothing, _weights()[0], 0)))


@pytest.mark.parametrize('name', sorted(IMPORTANCE.keys() - {'random'}))
def test_experts_numbered_otherwise_keep_their_scores(name):
  order = [2, 0, 3, 1]
  statistics, weights = expert_statistics.random(), _weights()
  score_NE = scores(name, statistics, weights)
  renumbered = scores(
    name,
    expert_statistics.permuted(statistics, order),
    [{'w_DE': layer['w_DE'][:, order]} for layer in weights],
  )
  np.testing.assert_array_equal(renumbered, score_NE[:, order])


@pytest.mark.parametrize('name', IMPORTANCE)
def test_each_layer_has_its_own_scores(name):
  score_NE = scores(name, expert_statistics.random(), _weights())
  assert not np.array_equal(score_NE[0], score_NE[1])


def test_random_scores_follow_their_seed():
  statistics = expert_statistics.random()
  draw = functools.partial(random, statistics, {}, 1)
  np.testing.assert_array_equal(draw(), draw(seed=0))
  assert not np.array_equal(draw(seed=0), draw(seed=1))


def test_the_norm_of_a_router_without_rows_is_one_line():
  with pytest.raises(errors.InputError, match='needs a router with a row'):
    IMPORTANCE['router_norm'](LAYER, {'w_EZ': np.ones((4, 2))}, 0)
