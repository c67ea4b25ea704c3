"""Balanced plans of one sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny
from jax.sharding import PartitionSpec

from moejax.moe.routers import transport

# Tokens x experts of the example in the facts: the plan it leads to.
LOGITS_SE = np.array(
  [[2, 1, 0, -1], [0, 1, 2, 1.5], [1, 1.5, 0.5, 0]], np.float32
)
PLAN_SE = [
  [0.1778, 0.0836, 0.0436, 0.0284],
  [0.0103, 0.0359, 0.1384, 0.1486],
  [0.0619, 0.1305, 0.0680, 0.0730],
]

sinkhorn = jax.jit(transport.sinkhorn, static_argnums=(2, 3))


def every(num):
  return np.ones(num, bool)


def test_the_plan_of_the_worked_example():
  log_plan_SE, price_E = sinkhorn(LOGITS_SE, every(3), 1e-4, 9)
  np.testing.assert_allclose(np.exp(log_plan_SE), PLAN_SE, atol=6e-5)
  # It stops by itself after those nine.
  longer_SE, _ = sinkhorn(LOGITS_SE, every(3), 1e-4, 50)
  np.testing.assert_array_equal(longer_SE, log_plan_SE)
  shorter_SE, _ = sinkhorn(LOGITS_SE, every(3), 1e-4, 8)
  assert (np.asarray(shorter_SE) != np.asarray(log_plan_SE)).any()
  # The prices are what turns scores into the plan, up to a row's factor.
  rest_SE = np.asarray(log_plan_SE) - (LOGITS_SE - np.asarray(price_E))
  np.testing.assert_allclose(np.ptp(rest_SE, axis=1), 0, atol=1e-5)


@pytest.mark.parametrize('spread', [0.1, 3.0, 60.0])
def test_rows_and_columns_have_their_sums(spread):
  rng = np.random.default_rng(1)
  logits_SE = (spread * rng.normal(size=(12, 5))).astype(np.float32)
  valid_S = np.arange(12) % 4 != 2
  log_plan_SE, _ = sinkhorn(logits_SE, valid_S, -1.0, 3000)
  plan_SE = np.exp(log_plan_SE)
  np.testing.assert_allclose(plan_SE.sum(axis=0), 1 / 5, rtol=1e-4)
  np.testing.assert_allclose(plan_SE.sum(axis=1)[valid_S], 1 / 9, rtol=2e-3)
  np.testing.assert_array_equal(plan_SE[~valid_S], 0)


def test_a_bias_of_an_expert_changes_no_plan():
  """However large: the expert's price takes it off again."""
  logits_SE = 3 * np.random.default_rng(2).normal(size=(12, 4))
  bias_E = np.array([0, 200, -150, 7])
  plain_SE, price_E = sinkhorn(logits_SE, every(12), -1.0, 200)
  biased_SE, other_E = sinkhorn(logits_SE + bias_E, every(12), -1.0, 200)
  np.testing.assert_allclose(biased_SE, plain_SE, atol=1e-3)
  bias_E = bias_E - (np.asarray(other_E) - np.asarray(price_E))
  np.testing.assert_allclose(bias_E, bias_E[0], atol=1e-3)


def test_nothing_to_share_out():
  log_plan_SE, price_E = sinkhorn(LOGITS_SE, ~every(3), 1e-4, 9)
  assert np.isneginf(log_plan_SE).all()
  np.testing.assert_array_equal(price_E, 0)


def test_scores_that_are_no_numbers_do_not_hang_a_run():
  log_plan_SE, _ = sinkhorn(LOGITS_SE * np.nan, every(3), 1e-4, 20)
  assert log_plan_SE.shape == (3, 4)


def test_sequences_do_not_see_each_other_nor_the_mesh():
  """In one call, alone, and inside shard_map: the same."""
  rng = np.random.default_rng(3)
  score_GSE = rng.normal(size=(4, 15, 4)).astype(np.float32) * 3
  valid_GS = rng.uniform(size=(4, 15)) < 0.8
  plans = jax.vmap(
    lambda score_SE, valid_S: transport.sinkhorn(score_SE, valid_S, 1e-4, 100)
  )
  together = jax.jit(plans)(score_GSE, valid_GS)
  rows = PartitionSpec('data')
  split = jax.shard_map(
    plans,
    mesh=tiny.mesh(4, data=4),
    in_specs=(rows, rows),
    out_specs=(rows, rows),
  )
  shards = jax.jit(split)(jnp.asarray(score_GSE), jnp.asarray(valid_GS))
  for got, want in zip(shards, together, strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  for g in range(4):
    alone_SE, _ = sinkhorn(score_GSE[g], valid_GS[g], 1e-4, 100)
    np.testing.assert_allclose(alone_SE, together[0][g], rtol=1e-5, atol=1e-5)
