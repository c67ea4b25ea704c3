"""Room, places and drops of the capacity dispatcher, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.moe import contract
from moejax.moe.dispatchers.capacity import Capacity


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
    limited = dispatcher.limit(routing, 2)
    kept_A = np.asarray(limited.expert_A) == choice
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
    limited = dispatcher.limit(routing, 3)
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
  limited = Capacity(priority='probability').limit(routing, 2)
  np.testing.assert_array_equal(limited.expert_A, [2, 0, 0, 2])
