"""CHOICES: layers of four experts by hand, groups, and the contract."""

import numpy as np
import pytest

from moejax.compress.choice import CHOICES, RouterNeeds
from moejax.core import errors

SCORE_NE = np.array([[5.0, 1, 3, 7], [80, 10, 60, 50]])
BY_HAND = {
  'uniform': [[1, 0, 0, 1], [1, 0, 1, 0]],
  # The best of layer 0, which its router needs, then 80, 60 and 50.
  'global': [[0, 0, 0, 1], [1, 0, 1, 1]],
  # Shares: 5/16 1/16 3/16 1 and 1 10/200 60/200 50/200.
  'adaptive': [[1, 0, 0, 1], [1, 0, 1, 0]],
}
# Eight experts in four groups of two; the best four are in groups 0 and 3.
GROUPED = np.array([[9.0, 8, 1, 2, 0.5, 0.25, 7, 6]])
# Of a router that takes 2 experts of 2 groups.
TWO_OF_FOUR = RouterNeeds(2, num_groups=4, per_group=1, least_groups=2)


def test_every_choice_is_worked_by_hand():
  assert BY_HAND.keys() == CHOICES.keys()


@pytest.mark.parametrize('name', CHOICES)
def test_the_choice_among_four_experts_by_hand(name):
  kept_NE = CHOICES[name](SCORE_NE, 2)
  assert kept_NE.dtype == bool
  np.testing.assert_array_equal(kept_NE, BY_HAND[name])


def test_dominant_experts_of_m_smoe_differ_in_number():
  """Frequencies .7 .1 .1 .1 and .4 .3 .2 .1: 1 .4->1 .3 .2 are the best."""
  frequency_NE = np.array([[7, 1, 1, 1], [4, 3, 2, 1]])
  np.testing.assert_array_equal(
    CHOICES['adaptive'](frequency_NE, 2), [[1, 0, 0, 0], [1, 1, 1, 0]]
  )


def test_the_most_used_expert_of_a_flat_layer_stays():
  """Its share of .26 is below both of each other layer."""
  frequency_NE = np.array([[25, 24, 25, 26], [0, 50, 50, 0], [50, 50, 0, 0]])
  np.testing.assert_array_equal(
    CHOICES['adaptive'](frequency_NE, 1).sum(axis=1), [1, 1, 1]
  )
  kept_NE = CHOICES['adaptive'](frequency_NE, 2)
  np.testing.assert_array_equal(kept_NE.sum(axis=1), [2, 2, 2])
  np.testing.assert_array_equal(kept_NE[0], [1, 0, 0, 1])


@pytest.mark.parametrize('name', ['global', 'adaptive'])
def test_every_layer_keeps_what_its_router_needs(name):
  kept_NE = CHOICES[name](
    np.array([[1.0, 0, 0, 0], [4, 4, 4, 4]]) * [[1], [100]],
    3,
    RouterNeeds(at_least=2),
  )
  assert kept_NE.sum() == 6
  assert np.all(kept_NE.sum(axis=1) >= 2)


@pytest.mark.parametrize('name', CHOICES)
@pytest.mark.parametrize('keep', [1, 3, 8])
def test_a_choice_keeps_its_budget(name, keep):
  score_NE = np.random.default_rng(3).uniform(size=(5, 8))
  before = score_NE.copy()
  kept_NE = CHOICES[name](score_NE, keep)
  assert kept_NE.shape == (5, 8)
  assert kept_NE.sum() == 5 * keep
  assert np.all(kept_NE.any(axis=1))
  np.testing.assert_array_equal(score_NE, before)
  # In a layer, all that stay have larger scores than all that do not.
  for kept_E, score_E in zip(kept_NE, score_NE, strict=True):
    left = score_E[~kept_E]
    assert not len(left) or left.max() < score_E[kept_E].min()


@pytest.mark.parametrize('name', CHOICES)
def test_experts_numbered_otherwise_are_chosen_alike(name):
  score_NE = np.random.default_rng(3).uniform(size=(5, 8))
  order = np.random.default_rng(4).permutation(8)
  np.testing.assert_array_equal(
    CHOICES[name](score_NE[:, order], 3), CHOICES[name](score_NE, 3)[:, order]
  )


@pytest.mark.parametrize('name', CHOICES)
def test_equal_scores_go_to_the_lower_expert(name):
  kept_NE = CHOICES[name](np.zeros((2, 4)), 2)
  assert kept_NE.sum() == 4
  assert np.all(kept_NE[:, 0])
  np.testing.assert_array_equal(np.diff(kept_NE.astype(int), axis=1) <= 0, True)


@pytest.mark.parametrize('name', CHOICES)
@pytest.mark.parametrize(
  ('keep', 'needs', 'message'),
  [
    (0, RouterNeeds(), 'keep=0: at least one expert of a layer must stay'),
    (-1, RouterNeeds(), 'keep=-1: at least one'),
    (9, RouterNeeds(), 'keep=9 of 8 experts: keep 8 at most'),
    (1, RouterNeeds(2), 'keep=1 is less than the 2 experts per layer that'),
    (3, RouterNeeds(2, 4, 1), 'keep=3 is less than the 1 experts that the'),
    (8, RouterNeeds(1, 3), '8 experts do not form 3 groups of one size'),
  ],
)
def test_a_number_that_cannot_be_kept_is_one_line(name, keep, needs, message):
  with pytest.raises(errors.InputError) as error:
    CHOICES[name](np.ones((2, 8)), keep, needs)
  assert message in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', CHOICES)
def test_every_group_keeps_its_best_where_a_budget_fills_all(name):
  """Without its needs two of the four groups would be empty."""
  np.testing.assert_array_equal(
    CHOICES[name](GROUPED, 4), [[1, 1, 0, 0, 0, 0, 1, 1]]
  )
  mask = TWO_OF_FOUR.for_budget(5, 8, equal=False)
  assert (mask.groups, mask.per_group) == (4, 1)
  np.testing.assert_array_equal(
    CHOICES[name](GROUPED, 5, mask), [[1, 1, 0, 1, 1, 0, 1, 0]]
  )


@pytest.mark.parametrize('name', CHOICES)
@pytest.mark.parametrize('equal', [True, False])
def test_a_budget_that_cannot_fill_all_groups_takes_whole_groups(name, equal):
  """Of three experts in four groups, one group goes: 2, with .5 and .25."""
  needs = TWO_OF_FOUR.for_budget(3, 8, equal=equal)
  assert (needs.groups, needs.per_group, needs.smallest) == (3, 1, 3)
  np.testing.assert_array_equal(
    CHOICES[name](GROUPED, 3, needs), [[1, 0, 0, 1, 0, 0, 1, 0]]
  )


@pytest.mark.parametrize('name', CHOICES)
def test_each_layer_loses_the_groups_that_matter_least_there(name):
  score_NE = np.array([[1.0, 9, 0, 5, 3, 3], [1, 1, 5, 5, 9, 0]])
  two_each = RouterNeeds(2, 3, 2, least_groups=1)
  needs = two_each.for_budget(4, 6)
  # Groups of 10, 5 and 6, and of 2, 10 and 9.
  np.testing.assert_array_equal(
    CHOICES[name](score_NE, 4, needs),
    [[1, 1, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1]],
  )
  # With one expert of each that counts, the groups are of 9, 5 and 3.
  one_each = RouterNeeds(1, 3, 1, least_groups=1).for_budget(2, 6)
  np.testing.assert_array_equal(
    CHOICES[name](score_NE, 2, one_each)[0], [0, 1, 0, 1, 0, 0]
  )


@pytest.mark.parametrize('name', CHOICES)
@pytest.mark.parametrize('equal', [True, False])
def test_no_group_is_left_with_fewer_than_a_router_needs(name, equal):
  """For every budget that is not refused, in layers of random scores."""
  needs = RouterNeeds(4, num_groups=4, per_group=2, least_groups=2)
  done = 0
  for keep in range(4, 17):
    try:
      own = needs.for_budget(keep, 16, equal=equal)
    except errors.InputError:
      continue
    score_NE = np.random.default_rng(keep).random((3, 16))
    kept_NE = CHOICES[name](score_NE, keep, own)
    assert kept_NE.sum() == 3 * keep
    size_NG = kept_NE.reshape(3, 4, 4).sum(axis=-1)
    assert size_NG[size_NG > 0].min() >= 2
    assert set((size_NG > 0).sum(axis=1)) == {own.groups}
    if equal:
      assert set(size_NG[size_NG > 0]) == {keep // own.groups}
    done += 1
  # Equal groups: 4, 6 (3 of 2), 8 (4 of 2), 12 and 16.
  assert done == (5 if equal else 13)


@pytest.mark.parametrize('name', CHOICES)
def test_groups_of_equal_size(name):
  needs = RouterNeeds(2, 2, 1).for_budget(4, 8)
  kept_NE = CHOICES[name](np.array([[9.0, 8, 7, 6, 1, 4, 3, 2]]), 4, needs)
  np.testing.assert_array_equal(kept_NE, [[1, 1, 0, 0, 0, 1, 1, 0]])


@pytest.mark.parametrize(
  ('needs', 'keep', 'line'),
  [
    (TWO_OF_FOUR, 6, 'by 4 of the router.s 4 groups of 2; keep 4 or 8, or '),
    (RouterNeeds(4, 4, 2, 2), 7, 'by 3 of the router.s 4 groups of 2; keep 6'),
    (RouterNeeds(4, 4, 2, 2), 5, 'by 2 of the router.s 4 groups of 2; keep 4'),
  ],
)
def test_a_budget_that_fills_no_number_of_groups_is_one_line(needs, keep, line):
  with pytest.raises(errors.InputError, match=line) as error:
    needs.for_budget(keep, 8)
  assert '\n' not in str(error.value)


def test_a_router_without_groups_needs_the_same_for_every_budget():
  assert RouterNeeds(2).for_budget(3, 8) == RouterNeeds(2)
