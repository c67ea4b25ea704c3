import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.core import values
from moejax.moe import balance, contract, stats
from moejax.moe.contract import RouterState
from moejax.moe.dispatchers.capacity import Capacity
from moejax.moe.dispatchers.dropless import Dropless
from moejax.moe.routers.top_k import TopK

# Experts 0 and 1 share token 0; token 1 is all expert 0's; token 2 is padding.
LOGITS_TE = np.array([[7.0, 7.0, -90.0], [50.0, -50.0, -60.0], [99.0, 0, 0]])
VALID_T = np.array([True, True, False])


def observe(logits_TE=LOGITS_TE, valid_T=VALID_T, dispatcher=None):
  return _observe(dispatcher or Dropless(), logits_TE, valid_T)


@functools.partial(jax.jit, static_argnums=0)
def _observe(dispatcher, logits_TE, valid_T):
  given = tiny.router_input(logits_TE, valid_T=valid_T)
  routing = TopK(k=2)(given)
  x_RD, _, note = dispatcher.dispatch(
    jnp.ones((len(logits_TE), 1)), routing, len(logits_TE[0])
  )
  return stats.observe(given, routing, note.row_A < len(x_RD))


def test_worked_example():
  """Entropies are ln 2 and 0; both tokens choose experts 0 and 1."""
  found = values.finish(observe())
  np.testing.assert_array_equal(found['count_E'], [2, 2, 0])
  assert found['entropy'] == pytest.approx(math.log(2) / 2, rel=1e-6)
  assert found['dropped'] == 0
  assert found['logit'] == 90
  assert found['bias'] == 0
  assert found['overlap'] == 0


def routing_of(expert_TK, valid_T=None, num_experts=4):
  """What is observed when tokens choose these experts."""
  expert_TK = jnp.asarray(expert_TK)
  prob_TE = jnp.full((len(expert_TK), num_experts), 1 / num_experts)
  given = tiny.router_input(prob_TE, valid_T=valid_T)
  weight_TK = jnp.ones(expert_TK.shape)
  return given, contract.token_choice(given, expert_TK, weight_TK, prob_TE)


def as_list(routing):
  """The same assignments in another order, no longer token choice."""
  turn = np.random.default_rng(0).permutation(len(routing.token_A))
  return dataclasses.replace(
    routing,
    token_A=routing.token_A[turn],
    expert_A=routing.expert_A[turn],
    weight_A=routing.weight_A[turn],
    per_token=None,
  )


def test_chosen():
  """The second token names expert 1 once, the third is padding."""
  _, routing = routing_of([[2, 0], [1, 4], [3, 3]], np.array([1, 1, 0], bool))
  want = [[True, False, True, False], [False, True, False, False], [False] * 4]
  np.testing.assert_array_equal(stats.chosen(routing), want)
  np.testing.assert_array_equal(stats.chosen(as_list(routing)), want)


@pytest.mark.parametrize('form', [lambda routing: routing, as_list])
def test_overlap_with_the_layer_before(form):
  """Of six choices three are as before; the last token had none there.

  Token 0 has {0, 1} after {1, 2}, token 1 {2, 3} after {2, 3}, token 2 {0, 1}
  after {3}, and token 3 is padding. A token that was sent nowhere before, as
  token 4, is left out.
  """
  given, routing = routing_of(
    [[0, 1], [2, 3], [0, 1], [0, 1], [0, 1]], np.array([1, 1, 1, 0, 1], bool)
  )
  previous_TE = np.array([
    [0, 1, 1, 0],
    [0, 0, 1, 1],
    [0, 0, 0, 1],
    [1, 1, 1, 1],
    [0, 0, 0, 0],
  ])
  routing = form(routing)
  sent_A = jnp.ones(len(routing.token_A), bool)
  for previous in (previous_TE.astype(bool), previous_TE.astype(np.float32)):
    found = stats.observe(given, routing, sent_A, previous)
    assert found['overlap'].value() == pytest.approx(3 / 6, rel=1e-6)
  first = stats.observe(given, routing, sent_A, np.zeros((5, 4), bool))
  none = stats.observe(given, routing, sent_A)
  tiny.assert_close(first, none)
  assert first['overlap'].weight == 0


def test_bias_range_is_of_the_sum_of_biases():
  given, routing = routing_of([[0], [1]])
  bias_E = balance.selection_bias({
    'one': RouterState(jnp.array([0.1, 0.0, -0.2, 0.0])),
    'two': RouterState(jnp.array([0.0, 0.0, 0.1, 0.4])),
    'other': RouterState(kept={'l1': jnp.float32(7)}),
  })
  given = dataclasses.replace(given, selection_bias_E=bias_E)
  found = stats.observe(given, routing, jnp.ones(2, bool))
  assert found['bias'].value() == pytest.approx(0.5, rel=1e-6)


def test_dropped_is_a_share_of_what_was_asked_for():
  """Six tokens want two experts; C = 0.5 * 12 / 3 = 2 of 6 fit in each."""
  found = observe(
    np.tile([2.0, 1, 0], (6, 1)), np.ones(6, bool), Capacity(factor=0.5)
  )
  assert found['dropped'].value() == pytest.approx(4 / 6, rel=1e-6)
  # Asked for, not sent: load is what the router wants.
  np.testing.assert_array_equal(found['count_E'].value(), [6, 6, 0])


def test_merging_tokens_is_seeing_all_at_once():
  rng = np.random.default_rng(0)
  logits_TE = rng.normal(size=(12, 3))
  valid_T = rng.uniform(size=12) > 0.3
  whole = observe(logits_TE, valid_T)
  parts = [observe(logits_TE[s], valid_T[s]) for s in (slice(5), slice(5, 12))]
  tiny.assert_close(values.merge(*parts), whole)


def test_nothing_but_padding_is_finite():
  found = values.finish(observe(valid_T=np.zeros(3, bool)))
  for leaf in jax.tree.leaves(found):
    np.testing.assert_array_equal(leaf, 0)


def test_no_gradient_goes_through_statistics():
  def total(logits_TE):
    given = tiny.router_input(logits_TE)
    routing = TopK(k=2)(given)
    _, _, note = Dropless().dispatch(jnp.ones((3, 1)), routing, 3)
    found = values.finish(stats.observe(given, routing, note.row_A < 6))
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(found))

  gradient = jax.jit(jax.grad(total))(jnp.asarray(LOGITS_TE, jnp.float32))
  np.testing.assert_array_equal(gradient, 0)


def test_summary_over_layers():
  """Layer loads are (2, 1, 1, 0), (1, 1, 1, 1) and (1.5, 1.5, 1, 0)."""
  found = stats.summarise({
    'count_E': np.array([[8, 4, 4, 0], [3, 3, 3, 3], [3, 3, 2, 0]]),
    'dropped': np.array([0.5, 0.0, 0.1]),
    'entropy': np.array([1.0, 2.0, 1.2]),
    'logit': np.array([3.0, 7.0, 4.0]),
    'bias': np.array([0.1, 0.3, 0.2]),
    'overlap': np.array([0.0, 0.2, 0.4]),
  })
  loads = [2, 1, 1, 0, 1, 1, 1, 1, 1.5, 1.5, 1, 0]
  assert found == pytest.approx({
    'load_max': 2,
    'load_max_median_layer': 1.5,
    'load_min': 0,
    'load_min_median_layer': 0,
    'load_p95': np.percentile(loads, 95),
    # (1.85, 1, 1.5): between the third and the fourth, 85% of the way
    'load_p95_median_layer': 1.5,
    'dead_experts': 2 / 12,
    'dead_experts_worst_layer': 1 / 4,
    'dropped': 0.2,
    'dropped_worst_layer': 0.5,
    'entropy': 1.4,
    'entropy_median_layer': 1.2,
    'entropy_worst_layer': 1,
    'logit_max': 7,
    'logit_max_median_layer': 4,
    'bias_range': 0.3,
    'bias_range_median_layer': 0.2,
    # The first layer has none before it.
    'overlap': 0.3,
    'overlap_worst_layer': 0.4,
  })


def test_an_expert_that_its_layer_does_not_have_is_in_no_summary():
  """Loads are (1.5, 0.5), which are of two experts, and (2, 1, 0)."""
  found = stats.summarise({
    'count_E': np.array([[3, 1, np.nan], [4, 2, 0]]),
  })
  assert found == pytest.approx({
    'load_max': 2,
    'load_max_median_layer': 1.75,
    'load_min': 0,
    'load_min_median_layer': 0.25,
    'load_p95': np.percentile([1.5, 0.5, 2, 1, 0], 95),
    'load_p95_median_layer': (1.45 + 1.9) / 2,
    'dead_experts': 1 / 6,
    'dead_experts_worst_layer': 1 / 3,
  })


def test_summary_of_one_layer():
  found = stats.summarise({
    'count_E': np.array([[1, 1]]),
    'overlap': np.array([0.0]),
  })
  assert found['overlap'] == found['overlap_worst_layer'] == 0
  assert 'dropped' not in found


def test_load_of_a_layer_that_saw_nothing_is_zero():
  np.testing.assert_array_equal(stats.load(np.zeros((2, 3))), 0)
