"""A pipeline passes every row through all layers, in their order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.parallel import pipeline
from moejax.parallel.pipeline import Schedule

FACTOR = 3


def test_the_schedule_by_hand():
  """Two stages, three repeats, four microbatches: 4 * 3 + 2 - 1 iterations.

  One of thirteen is of the bubble. Two microbatches wait on each device. What
  stage 1 computes in iteration t is read in t + 3, two reads of its slot later:
  in t + 1, and then.
  """
  schedule = Schedule(stages=2, repeats=3, microbatches=4)
  assert schedule.iterations == 13
  assert schedule.bubble == pytest.approx(1 / 13)
  assert (schedule.slots, schedule.entry) == (2, 1)


def test_repeats_shrink_the_bubble():
  """With as many microbatches as stages: 3 of 7 iterations, or 3 of 19."""
  assert Schedule(4, 1, 4).bubble == pytest.approx(3 / 7)
  assert Schedule(4, 4, 4).bubble == pytest.approx(3 / 19)


def _visit(weights, state, reads, shared, stage, repeat):
  """x -> 3 x + layer * read + shared, for K layers; and their inputs' sums."""
  del stage
  sums = []
  for weight in weights[repeat]:
    sums.append(jnp.sum(state))
    state = FACTOR * state + weight * reads[:, None] + shared
  return state, jnp.stack(sums)


@functools.cache
def _inputs(layers, rows):
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.integers(1, 50, shape).astype(np.int32)
  return draw(layers), draw(rows, 2), draw(rows), np.int32(7)


def _want(weights, state, reads, shared):
  """The state after all layers, and each layer's sum over the batch."""
  sums = []
  for weight in weights:
    sums.append(state.sum(dtype=np.int32))
    state = FACTOR * state + weight * reads[:, None] + shared
  return state, np.stack(sums)


@pytest.mark.parametrize(
  ('sizes', 'repeats', 'microbatches', 'each'),
  [
    ({'stage': 2}, 1, 2, 2),
    ({'stage': 2, 'fsdp': 2}, 3, 4, 1),
    # The last stage's results go to the first, a middle or the last device.
    ({'stage': 4}, 2, 4, 1),
    ({'stage': 4}, 3, 8, 1),
    ({'stage': 4, 'expert': 2}, 2, 16, 2),
    ({'stage': 4}, 5, 12, 1),
    # Fewer repeats than stages, and a number that does not divide them.
    pytest.param({'stage': 8}, 3, 8, 1, marks=pytest.mark.soak),
  ],
)
def test_rows_pass_all_layers_in_their_order(
  sizes, repeats, microbatches, each
):
  mesh = tiny.mesh(int(np.prod(list(sizes.values()))), data=1, **sizes)
  schedule = Schedule(sizes['stage'], repeats, microbatches)
  rows = 2 * microbatches * len(sizes)
  inputs = _inputs(schedule.stages * repeats * each, rows)
  weights, *rest = inputs

  @jax.jit
  def run(weights, *rest):
    return pipeline.run(
      *(schedule, mesh, _visit, weights, rest),
      merge=lambda out_MRK: jnp.sum(out_MRK, axis=0),
    )

  state, sums_RSK = jax.device_get(run(weights, *rest))
  want_state, want_sums = _want(*inputs)
  np.testing.assert_array_equal(state, want_state)
  np.testing.assert_array_equal(sums_RSK.reshape(-1), want_sums)
