"""Grouped experts: every group computes as much, whatever the scores."""

import numpy as np
import pytest
from helpers import tiny
from helpers.balance import L0, sigmoid, softmax

from moejax.core import errors
from moejax.moe.routers.group_balanced import GroupBalanced
from moejax.moe.routers.top_k import TopK

T, E, G, K = 50, 12, 3, 6
RNG = np.random.default_rng(1)
RANDOM_TE = RNG.normal(size=(T, E)).astype(np.float32)
BIAS_E = RNG.normal(size=E).astype(np.float32)


def by_token(values_A, k):
  return np.asarray(values_A).reshape(k, -1).T


def slow(score_TE, choice_TE, groups, k):
  """Experts and gates of each token by loops, the largest choice first."""
  size = score_TE.shape[1] // groups
  for score_E, choice_E in zip(score_TE, choice_TE, strict=True):
    chosen = []
    for first in range(0, len(score_E), size):
      group = sorted(range(first, first + size), key=lambda e: -choice_E[e])
      chosen += group[: k // groups]
    chosen.sort(key=lambda e: -choice_E[e])
    yield chosen, score_E[chosen]


def test_worked_by_hand():
  """Groups {0, 1} and {2, 3}; the softmax is over all four.

       softmax                       best of each group
  t0   .6439 .2369 | .0871 .0321     0 and 2
  t1   .0641 .1744 | .4740 .2875     1 and 2: 2 is before 1
  t2   .2760 .4551 | .1674 .1015     1 and 2
  """
  routing = tiny.route(GroupBalanced(k=2, num_groups=2), tiny.router_input(L0))
  np.testing.assert_array_equal(
    by_token(routing.expert_A, 2), [[0, 2], [2, 1], [1, 2]]
  )
  np.testing.assert_allclose(
    by_token(routing.weight_A, 2),
    [[0.6439, 0.0871], [0.4740, 0.1744], [0.4551, 0.1674]],
    atol=6e-5,
  )
  np.testing.assert_allclose(routing.prob_TE, softmax(L0), rtol=1e-6)


@pytest.mark.parametrize('score', ['softmax', 'sigmoid'])
def test_equals_loops_with_a_bias_that_moves_choices_alone(score):
  given = tiny.router_input(RANDOM_TE, selection_bias_E=BIAS_E)
  routing = tiny.route(GroupBalanced(k=K, num_groups=G, score=score), given)
  score_TE = {'softmax': softmax, 'sigmoid': sigmoid}[score](RANDOM_TE)
  want = list(slow(score_TE, score_TE + BIAS_E, G, K))
  np.testing.assert_array_equal(
    by_token(routing.expert_A, K), [experts for experts, _ in want]
  )
  np.testing.assert_allclose(
    by_token(routing.weight_A, K), [gates for _, gates in want], rtol=1e-5
  )


def test_every_group_has_the_same_load_also_where_scores_are_equal():
  """The paper's imbalance score, (most - least) / tokens of a device, is 0."""
  for logits_TE in (RANDOM_TE, np.zeros((T, E)), 9 * RANDOM_TE.round()):
    routing = tiny.route(
      GroupBalanced(k=K, num_groups=G), tiny.router_input(logits_TE)
    )
    group_TK = by_token(routing.expert_A, K) // (E // G)
    for group_K in group_TK:
      assert np.bincount(group_K, minlength=G).tolist() == [K // G] * G


def test_one_group_is_top_k():
  given = tiny.router_input(RANDOM_TE)
  got, want = (
    tiny.route(GroupBalanced(k=3), given),
    tiny.route(TopK(k=3), given),
  )
  np.testing.assert_array_equal(got.expert_A, want.expert_A)
  np.testing.assert_array_equal(got.weight_A, want.weight_A)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'k': 4, 'num_groups': 8}, 'num_groups=8 does not divide the 12 routed'),
    ({'k': 4, 'num_groups': 3}, 'num_groups=3 does not divide router.k=4'),
  ],
)
def test_what_does_not_divide_is_named(fields, message):
  with pytest.raises(errors.InputError, match=message):
    GroupBalanced(**fields).check(E)


def test_it_shrinks_to_what_divides():
  for num_experts, want in ((8, (2, 2)), (5, (2, 1)), (1, (1, 1))):
    small = GroupBalanced(k=7, num_groups=7).shrunk(num_experts)
    small.check(num_experts)
    assert (small.k, small.num_groups) == want
