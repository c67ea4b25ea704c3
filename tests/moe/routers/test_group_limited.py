"""Group-limited top-k against loops and hand-worked groups."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import references, tiny

from moejax.core import errors
from moejax.moe.routers import scores
from moejax.moe.routers.group_limited import GroupLimited
from moejax.moe.routers.top_k import TopK

T, E, G, M, K = 50, 12, 4, 2, 3
RNG = np.random.default_rng(1)
RANDOM_TE = RNG.normal(size=(T, E)).astype(np.float32)
BIAS_E = RNG.normal(size=E).astype(np.float32)


def by_token(values_A, k):
  return np.asarray(values_A).reshape(k, -1).T


def biased(logits_TE, bias_E, **more):
  bias_E = jnp.asarray(bias_E, jnp.float32)
  return tiny.router_input(logits_TE, selection_bias_E=bias_E, **more)


def test_deepseek_v2_keeps_the_device_of_the_best_expert():
  """Two devices of two experts, one kept; the gates are softmax over all.

       softmax                     devices
  t0   .6439 .2369 .0871 .0321    .6439 .0871
  t1   .0641 .1744 .4740 .2875    .1744 .4740
  t2   .2760 .4551 .1674 .1015    .4551 .1674
  """
  logits_TE = [[2.0, 1, 0, -1], [0, 1, 2, 1.5], [1, 1.5, 0.5, 0]]
  router = GroupLimited(k=2, num_groups=2, kept_groups=1)
  routing = tiny.route(router, tiny.router_input(logits_TE))
  np.testing.assert_array_equal(
    by_token(routing.expert_A, 2), [[0, 1], [2, 3], [1, 0]]
  )
  np.testing.assert_allclose(
    by_token(routing.weight_A, 2),
    [[0.6439, 0.2369], [0.4740, 0.2875], [0.4551, 0.2760]],
    atol=6e-5,
  )
  assert routing.extra == {}
  # Its scaling factor multiplies them.
  scaled = dataclasses.replace(router, scale=16.0)
  np.testing.assert_allclose(
    scaled(tiny.router_input(logits_TE)).weight_A, 16 * routing.weight_A
  )


@pytest.mark.parametrize(
  ('group_score', 'experts'),
  [('max', [0, 1, 2]), ('top2_sum', [6, 7, 8]), ('share_sum', [3, 4, 5])],
)
def test_three_scores_of_a_group_keep_three_groups(group_score, experts):
  """Sigmoids in groups of three, k=3 of one group:

  .90 .30 .01   max .90   two best 1.20   three best 1.21
  .50 .50 .50       .50            1.00              1.50
  .80 .60 .02       .80            1.40              1.42
  """
  score_E = np.array([0.9, 0.3, 0.01, 0.5, 0.5, 0.5, 0.8, 0.6, 0.02])
  router = GroupLimited(
    k=3,
    score='sigmoid',
    num_groups=3,
    kept_groups=1,
    group_score=group_score,
  )
  routing = tiny.route(
    router, tiny.router_input(np.log(score_E / (1 - score_E))[None])
  )
  assert sorted(np.asarray(routing.expert_A).tolist()) == experts
  np.testing.assert_allclose(
    routing.weight_A, score_E[np.asarray(routing.expert_A)], rtol=1e-5
  )


def reference(choice_E, num_best):
  """The K best experts of the M groups whose best few have the largest sum."""
  groups = choice_E.reshape(G, -1)
  sums = [sum(sorted(group)[-num_best:]) for group in groups]
  kept = references.top(sums, M)
  rest = [c if i * G // E in kept else -np.inf for i, c in enumerate(choice_E)]
  return references.top(rest, K)


@pytest.mark.parametrize('bias_E', [np.zeros(E), BIAS_E, BIAS_E - 9])
@pytest.mark.parametrize(
  ('group_score', 'num_best', 'after'),
  [
    ('max', 1, False),
    ('top2_sum', 2, False),
    ('top2_sum', 2, True),
    ('share_sum', 1, False),
  ],
)
def test_the_best_of_the_best_groups(group_score, num_best, after, bias_E):
  """Bias decides on groups and experts; with -9 all that is kept is below 0."""
  router = GroupLimited(
    k=K,
    score='sigmoid',
    renormalise=True,
    scale=2.5,
    after=after,
    num_groups=G,
    kept_groups=M,
    group_score=group_score,
  )
  router.check(E)
  routing = router(biased(RANDOM_TE, bias_E))
  expert_TK = by_token(routing.expert_A, K)
  score_TE = 1 / (1 + np.exp(-RANDOM_TE))
  choice_TE = (RANDOM_TE if after else score_TE) + bias_E.astype(np.float32)
  for t in range(T):
    assert expert_TK[t].tolist() == reference(choice_TE[t], num_best)
  gate_TK = np.take_along_axis(score_TE, expert_TK, axis=1)
  gate_TK = 2.5 * gate_TK / gate_TK.sum(axis=1, keepdims=True)
  np.testing.assert_allclose(by_token(routing.weight_A, K), gate_TK, rtol=1e-5)
  touched_TG = (expert_TK[:, :, None] * G // E == np.arange(G)).any(axis=1)
  assert touched_TG.sum(axis=1).max() == M
  # Without the limit more groups are touched.
  free_TK = by_token(
    tiny.route(TopK(k=K), tiny.router_input(RANDOM_TE)).expert_A, K
  )
  assert (free_TK[:, :, None] * G // E == np.arange(G)).any(1).sum(1).max() > M


@pytest.mark.parametrize('group_score', ['max', 'top2_sum', 'share_sum'])
def test_all_groups_kept_is_plain_top_k(group_score):
  given = biased(RANDOM_TE, BIAS_E)
  router = GroupLimited(
    k=K, num_groups=G, kept_groups=G, group_score=group_score
  )
  got, want = tiny.route(router, given), tiny.route(TopK(k=K), given)
  jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize('bias_E', [None, BIAS_E])
@pytest.mark.parametrize('score', sorted(scores.SCORES))
def test_v3s_loss_counts_the_best_of_all_groups(score, bias_E):
  """Unbiased and unlimited; V2's, with softmax and no bias, what was chosen."""
  router = GroupLimited(k=K, score=score, num_groups=G, kept_groups=1)
  given = tiny.router_input(RANDOM_TE, valid_T=np.arange(T) > 0)
  if bias_E is not None:
    given = biased(RANDOM_TE, bias_E, valid_T=np.arange(T) > 0)
  routing = tiny.route(router, given)
  if score == 'softmax' and bias_E is None:
    assert routing.extra == {}
    return
  want_TK = [references.top(logits_E, K) for logits_E in RANDOM_TE]
  want_TK[0] = [E] * K
  np.testing.assert_array_equal(routing.extra['unbiased_TK'], want_TK)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'num_groups': 5}, 'num_groups=5 does not divide the 12 routed experts'),
    (
      {'num_groups': 4, 'kept_groups': 5},
      'kept_groups=5 must be 1 to router.num_groups=4',
    ),
    (
      {'num_groups': 4, 'kept_groups': 1, 'k': 4},
      'k=4 experts per token, but router.kept_groups=1 of 4 groups have only 3',
    ),
    ({'k': 13}, 'k=13 experts per token, but there are 12 routed experts'),
  ],
)
def test_groups_must_fit(fields, message):
  with pytest.raises(errors.InputError, match=message):
    GroupLimited(**fields).check(12)


def test_a_laptops_groups_still_limit():
  v3 = GroupLimited(k=8, num_groups=8, kept_groups=4)
  small = v3.shrunk(4)
  assert (small.k, small.num_groups, small.kept_groups) == (2, 4, 2)
  for router in (v3, GroupLimited(k=6, num_groups=8, kept_groups=3)):
    for num_experts in range(1, 17):
      router.shrunk(num_experts).check(num_experts)
