import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.core import values
from moejax.moe import stats
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
  """Layer loads are (2, 1, 1, 0) and (1, 1, 1, 1)."""
  found = stats.summarise({
    'count_E': np.array([[8, 4, 4, 0], [3, 3, 3, 3]]),
    'dropped': np.array([0.5, 0.0]),
    'entropy': np.array([1.0, 2.0]),
    'logit': np.array([3.0, 7.0]),
  })
  assert found == pytest.approx({
    'load_max': 2,
    'load_max_median_layer': 1.5,
    'load_min': 0,
    'load_p95': np.percentile([2, 1, 1, 0, 1, 1, 1, 1], 95),
    'dead_experts': 1 / 8,
    'dropped': 0.25,
    'entropy': 1.5,
    'logit_max': 7,
  })


def test_load_of_a_layer_that_saw_nothing_is_zero():
  np.testing.assert_array_equal(stats.load(np.zeros((2, 3))), 0)
