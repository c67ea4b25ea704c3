"""CHOICES: layers of four experts by hand, groups, and the contract."""

import numpy as np
import pytest

from moejax.compress.choice import CHOICES, RouterNeeds, check_kept
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
TWO_OF_FOUR = RouterNeeds.group_limited(k=2, num_groups=4, kept_groups=2)


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


def test_needs_of_group_limited_routers():
  """Any kept groups hold k experts, and a group has those its score sums."""
  deepseek_v2 = RouterNeeds.group_limited(6, 8, 3)
  assert (deepseek_v2.per_group, deepseek_v2.smallest) == (2, 16)
  deepseek_v3 = RouterNeeds.group_limited(8, 8, 4, summed=2)
  assert (deepseek_v3.per_group, deepseek_v3.smallest) == (2, 16)
  assert RouterNeeds.group_limited(1, 4, 2, summed=2).per_group == 2
  assert RouterNeeds.group_limited(3, 4, 2).per_group == 2
  assert RouterNeeds(4, 4, 1) == TWO_OF_FOUR


@pytest.mark.parametrize('name', CHOICES)
def test_no_group_of_a_router_loses_all_its_experts(name):
  """Without its needs two of the four groups would be empty."""
  with pytest.raises(errors.InputError, match='group 1 of layer 5 keeps 0'):
    check_kept(CHOICES[name](GROUPED, 4), TWO_OF_FOUR, first_layer=5)
  kept_NE = CHOICES[name](GROUPED, 5, TWO_OF_FOUR)
  np.testing.assert_array_equal(kept_NE, [[1, 1, 0, 1, 1, 0, 1, 0]])
  check_kept(kept_NE, TWO_OF_FOUR)


@pytest.mark.parametrize('name', CHOICES)
def test_groups_of_equal_size(name):
  needs = RouterNeeds(2, 2, 1).equal_groups(4)
  kept_NE = CHOICES[name](np.array([[9.0, 8, 7, 6, 1, 4, 3, 2]]), 4, needs)
  np.testing.assert_array_equal(kept_NE, [[1, 1, 0, 0, 0, 1, 1, 0]])


def test_groups_of_equal_size_need_a_multiple():
  with pytest.raises(errors.InputError, match='keep a multiple of 4, or mask'):
    TWO_OF_FOUR.equal_groups(6)


def test_a_choice_from_elsewhere_is_checked():
  mask_NE = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool)
  check_kept(mask_NE, RouterNeeds())
  with pytest.raises(errors.InputError, match='layer 4 keeps 1 experts, but'):
    check_kept(mask_NE, RouterNeeds(2), first_layer=3)
  with pytest.raises(errors.InputError, match='layer 1 keeps 0 experts, but'):
    check_kept(mask_NE & [[True], [False]], RouterNeeds(0))
