"""GROUPINGS: four and five experts by hand, capacity, and the contract."""

import dataclasses

import numpy as np
import pytest
from helpers import expert_statistics, experts

from moejax.compress.grouping import GROUPINGS, similarity_of_gram
from moejax.core import errors

# Vectors of four experts on two tokens: 2 points as 0, 3 against 0 as 1 does.
VECTOR_E2 = np.array([[1.0, 0], [0, 1], [5, 1], [-2, 1]])
DOMINANT_E = np.array([True, True, False, False])


def layer_of(vectors, count_E=(9, 9, 1, 2)):
  """Statistics and weights of a layer whose grams are those of vectors."""
  vectors = np.asarray(vectors, float)
  gram_NEE = (vectors @ vectors.T)[None]
  statistics = dataclasses.replace(
    expert_statistics.random(1, len(vectors)),
    count_NE=np.array([count_E]),
    logit_gram_NEE=gram_NEE,
    output_gram_NEE=gram_NEE,
  )
  # One unit: x, of the two numbers, one is in w_in and one in w_out.
  weights = {
    'w_in_EDF': vectors[:, :1, None],
    'w_out_EFD': vectors[:, 1:, None],
  }
  return statistics, weights


@pytest.mark.parametrize('name', GROUPINGS)
def test_groups_of_four_experts_by_hand(name):
  group_E = GROUPINGS[name](*layer_of(VECTOR_E2), 0, DOMINANT_E)
  np.testing.assert_array_equal(group_E, [0, 1, 0, 1])


def test_similarity_is_the_cosine_moved_to_0_to_1():
  vectors = np.array([[1.0, 0], [0, 3], [2, 2], [-4, 0], [0, 0]])
  root = np.sqrt(0.5)
  expected = [1, 0.5, (root + 1) / 2, 0, 0.5]
  similarity_EE = similarity_of_gram(vectors @ vectors.T)
  np.testing.assert_allclose(similarity_EE[0], expected, rtol=1e-15)
  np.testing.assert_array_equal(similarity_EE, similarity_EE.T)


@pytest.mark.parametrize('name', GROUPINGS)
def test_a_full_group_sends_the_less_used_expert_on(name):
  """Experts 2, 3 and 4 are like 0; 3 and 4 are used most, and choose first."""
  vectors = np.array([[1.0, 0], [0, 1], [5, 1], [5, 2], [5, 1]])
  layer = layer_of(vectors, (9, 9, 1, 2, 3))
  dominant_E = np.array([True, True, False, False, False])
  choose = lambda capacity: GROUPINGS[name](*layer, 0, dominant_E, capacity)
  np.testing.assert_array_equal(choose(0), [0, 1, 0, 0, 0])
  np.testing.assert_array_equal(choose(4), [0, 1, 0, 0, 0])
  np.testing.assert_array_equal(choose(3), [0, 1, 1, 0, 0])
  with pytest.raises(errors.InputError) as error:
    choose(2)
  assert str(error.value) == (
    'capacity=2: 2 groups of 2 have no room for 5 experts; set 3 or more, or '
    'keep more experts'
  )


@pytest.mark.parametrize('name', GROUPINGS)
def test_every_expert_joins_a_dominant_one(name):
  statistics = expert_statistics.random(layers=2, experts=8)
  weights = experts.random('swiglu', experts=8)
  dominant_E = np.array([0, 1, 1, 0, 0, 0, 1, 0], bool)
  before = {key: array.copy() for key, array in weights.items()}
  group_E = GROUPINGS[name](statistics, weights, 1, dominant_E)
  assert group_E.shape == (8,)
  assert group_E.dtype.kind == 'i'
  assert set(group_E) <= {1, 2, 6}
  np.testing.assert_array_equal(group_E[dominant_E], [1, 2, 6])
  for key, array in weights.items():
    np.testing.assert_array_equal(array, before[key])


@pytest.mark.parametrize('name', GROUPINGS)
def test_experts_numbered_otherwise_form_the_same_groups(name):
  statistics = expert_statistics.random(layers=2, experts=8)
  weights = experts.random('swiglu', experts=8)
  dominant_E = np.array([0, 1, 1, 0, 0, 0, 1, 0], bool)
  order = np.random.default_rng(4).permutation(8)
  group_E = GROUPINGS[name](statistics, weights, 1, dominant_E, 3)
  renumbered = GROUPINGS[name](
    expert_statistics.permuted(statistics, order),
    {key: array[order] for key, array in weights.items()},
    1,
    dominant_E[order],
    3,
  )
  np.testing.assert_array_equal(order[renumbered], group_E[order])


@pytest.mark.parametrize('name', GROUPINGS)
def test_all_dominant_or_one(name):
  layer = layer_of(VECTOR_E2)
  group = lambda dominant: GROUPINGS[name](*layer, 0, np.array(dominant))
  np.testing.assert_array_equal(group([True] * 4), np.arange(4))
  np.testing.assert_array_equal(group([False, False, True, False]), [2] * 4)
  with pytest.raises(ValueError, match='without a dominant expert'):
    group([False] * 4)


def test_outputs_that_were_not_collected_are_one_line():
  statistics, weights = layer_of(VECTOR_E2)
  statistics = dataclasses.replace(statistics, output_gram_NEE=None)
  with pytest.raises(errors.InputError, match='collect them with outputs, or'):
    GROUPINGS['outputs'](statistics, weights, 0, DOMINANT_E)
