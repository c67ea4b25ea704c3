"""Balanced assignments of one sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny
from jax.sharding import PartitionSpec
from scipy import optimize

from moejax.moe.routers import assignment

assign = jax.jit(assignment.assign)


def every(num):
  return np.ones(num, bool)


def best_total(score_SE):
  """The largest sum of a balanced assignment, by scipy.

  Each expert has a column for each of its places; where E does not divide the
  tokens, further rows take the places left over, one of an expert's at most.
  """
  num_tokens, num_experts = score_SE.shape
  places = -(-num_tokens // num_experts)
  rows = num_experts * places
  benefit = np.full((rows, rows), -1e6)
  benefit[:num_tokens] = np.repeat(score_SE, places, axis=1)
  benefit[num_tokens:, places - 1 :: places] = 0
  row, column = optimize.linear_sum_assignment(benefit, maximize=True)
  return benefit[row, column].sum()


def check_assignment(score_SE, valid_S, expert_S):
  num_experts = score_SE.shape[1]
  expert_S = np.asarray(expert_S)
  np.testing.assert_array_equal(expert_S[~valid_S], num_experts)
  load_E = np.bincount(expert_S[valid_S], minlength=num_experts)
  assert len(load_E) == num_experts
  assert np.ptp(load_E) <= 1
  kept_SE = score_SE[valid_S].astype(np.float64)
  total = np.take_along_axis(kept_SE, expert_S[valid_S][:, None], 1).sum()
  span = np.ptp(kept_SE) + 1e-9
  # Each score is rounded to 2^-22 of their range, or finer.
  assert abs(total - best_total(kept_SE)) <= len(kept_SE) * span * 2.0**-22


@pytest.mark.parametrize(('tokens', 'experts'), [(24, 4), (31, 5), (3, 8)])
def test_assignment_is_the_optimum(tokens, experts):
  """Against scipy: scores of several scales, lopsided ones, many ties."""
  rng = np.random.default_rng(tokens)
  for trial in range(24):
    score_SE = rng.normal(size=(tokens, experts)) * rng.choice([0.1, 1, 100])
    score_SE += rng.choice([0, 1, 30]) * rng.normal(size=experts)
    if trial % 4 == 3:
      score_SE = np.round(score_SE)
    valid_S = rng.uniform(size=tokens) < rng.choice([1, 0.6, 0.3])
    valid_S[0] = True
    score_SE = score_SE.astype(np.float32)
    check_assignment(score_SE, valid_S, assign(score_SE, valid_S))


def test_all_prefer_one_expert():
  """The longest way: everybody but n/E has to go, over chains of experts."""
  score_SE = np.zeros((32, 8), np.float32)
  score_SE[:, 0] = 50 + np.arange(32)
  score_SE[:, 1] = 10 + np.arange(32) % 5
  score_SE[:, 2:] += np.random.default_rng(0).uniform(size=(32, 6))
  check_assignment(score_SE, every(32), assign(score_SE, every(32)))


def test_it_gives_up_least():
  score_SE = np.array([[5, 0], [4, 0], [3, 0]], np.float32)
  np.testing.assert_array_equal(assign(score_SE, every(3)), [0, 0, 1])


def test_equal_scores():
  expert_S = assign(np.full((10, 4), 3.0, np.float32), every(10))
  np.testing.assert_array_equal(np.sort(np.bincount(expert_S)), [2, 2, 3, 3])


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_do_not_hang_a_run(bad):
  """It stops by its loss; here there only has to be some expert."""
  score_SE = np.random.default_rng(0).normal(size=(31, 5)).astype(np.float32)
  score_SE[3:9, 1] = bad
  expert_S = np.asarray(assign(score_SE, every(31)))
  assert ((expert_S >= 0) & (expert_S < 5)).all()


def test_padding_alone():
  score_SE = np.zeros((3, 4), np.float32)
  np.testing.assert_array_equal(assign(score_SE, ~every(3)), [4, 4, 4])


def test_sequences_do_not_see_each_other_nor_the_mesh():
  """In one call, alone, and inside shard_map: the same."""
  rng = np.random.default_rng(3)
  score_GSE = rng.normal(size=(4, 15, 4)).astype(np.float32) * 3
  valid_GS = rng.uniform(size=(4, 15)) < 0.8
  together = jax.jit(jax.vmap(assignment.assign))(score_GSE, valid_GS)
  rows = PartitionSpec('data')
  split = jax.shard_map(
    jax.vmap(assignment.assign),
    mesh=tiny.mesh(4, data=4),
    in_specs=(rows, rows),
    out_specs=rows,
  )
  shards = jax.jit(split)(jnp.asarray(score_GSE), jnp.asarray(valid_GS))
  np.testing.assert_array_equal(shards, together)
  for g in range(4):
    alone_S = assign(score_GSE[g], valid_GS[g])
    np.testing.assert_array_equal(alone_S, together[g])
