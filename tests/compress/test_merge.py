"""Merging layers: what it must not change, a layer by hand, and its forms."""

import dataclasses

import numpy as np
import pytest
from helpers import expert_statistics, experts

from moejax.compress import alignment
from moejax.compress.grouping import GROUPINGS
from moejax.compress.means import MEANS
from moejax.compress.merge import MergeOptions, kept_rows, merge_layer
from moejax.core import errors

X_TD = np.random.default_rng(1).normal(size=(7, 3))
ALL = [
  MergeOptions(grouping, mean, align=align)
  for grouping in GROUPINGS
  for mean in MEANS
  for align in (True, False)
]


def like(pairs, num=4):
  """Statistics of one layer in which each pair of experts is alike."""
  vectors = np.eye(num)
  for one, other in pairs:
    vectors[other] = vectors[one]
  gram_NEE = (vectors @ vectors.T)[None]
  return dataclasses.replace(
    expert_statistics.random(1, num),
    count_NE=np.array([[6, 1, 2, 3]]),
    logit_gram_NEE=gram_NEE,
    output_gram_NEE=gram_NEE,
  )


def with_equal_experts(kind, shuffled):
  """Four experts; the last is the second, its units perhaps in other places."""
  weights = experts.random(kind)
  for array in weights.values():
    array[3] = array[1]
  order_EF = np.tile(np.arange(6), (4, 1))
  if shuffled:
    order_EF[3] = [3, 0, 5, 1, 4, 2]
  return alignment.reordered(weights, order_EF)


@pytest.mark.parametrize('options', ALL, ids=str)
def test_merging_all_into_themselves_changes_nothing_to_the_bit(options):
  weights = experts.random('clamped_swiglu', dtype=np.float32)
  weights['b_out_ED'][:] = -0.0
  merged = merge_layer(like([]), weights, 0, np.ones(4, bool), options)
  for name, array in weights.items():
    assert merged.experts[name].dtype == np.float32
    assert merged.experts[name].tobytes() == array.tobytes()
    assert merged.expanded()[name].tobytes() == array.tobytes()
  np.testing.assert_array_equal(merged.index_E, np.arange(4))
  np.testing.assert_array_equal(merged.dominant_G, np.arange(4))


@pytest.mark.parametrize('options', ALL, ids=str)
@pytest.mark.parametrize('kind', experts.SHAPES)
def test_merging_two_equal_experts_changes_nothing(kind, options):
  weights = with_equal_experts(kind, shuffled=options.align)
  dominant_E = np.array([True, True, True, False])
  merged = merge_layer(like([(1, 3)]), weights, 0, dominant_E, options)
  np.testing.assert_array_equal(merged.index_E, [0, 1, 2, 1])
  for name, array in weights.items():
    np.testing.assert_array_equal(merged.experts[name], array[:3])
  np.testing.assert_allclose(
    experts.outputs(kind, merged.expanded(), X_TD),
    experts.outputs(kind, weights, X_TD),
    rtol=1e-12,
    atol=1e-14,
  )


def test_without_alignment_shuffled_experts_do_not_merge_to_themselves():
  weights = with_equal_experts('swiglu', shuffled=True)
  merged = merge_layer(
    like([(1, 3)]),
    weights,
    0,
    np.array([True, True, True, False]),
    MergeOptions(align=False),
  )
  wrong = merged.experts['w_out_EFD'][1] - weights['w_out_EFD'][1]
  assert np.abs(wrong).max() > 0.1


def test_a_merged_layer_of_four_experts_by_hand():
  """Experts 0 and 2, 1 and 3 are alike; 3 is dominant, used three times."""
  weights = {
    'w_in_EDF': np.array([[[1, 2.0]], [[3, 1]], [[0, 5]], [[2, 0]]]),
    'w_out_EFD': np.array([[[1.0], [0]], [[0], [1]], [[1], [0]], [[-1], [0]]]),
    'w_DE': np.ones((1, 4)),
  }
  dominant_E = np.array([True, False, False, True])
  merged = merge_layer(like([(0, 2), (3, 1)]), weights, 0, dominant_E)
  np.testing.assert_array_equal(merged.index_E, [0, 1, 0, 1])
  np.testing.assert_array_equal(merged.dominant_G, [0, 3])
  assert merged.experts.keys() == {'w_in_EDF', 'w_out_EFD'}
  # Frequencies 6 and 2 of experts 0 and 2; 3 and 1 of experts 3 and 1. Both of
  # the second group have their units the other way round than expert 0 (see
  # test_alignment), so the same way as each other.
  np.testing.assert_allclose(
    merged.experts['w_in_EDF'], [[[0.75, 2.75]], [[2.25, 0.25]]]
  )
  np.testing.assert_allclose(
    merged.experts['w_out_EFD'], [[[1], [0]], [[-0.75], [0.25]]]
  )


@pytest.mark.parametrize('kind', experts.SHAPES)
def test_the_layer_sees_its_own_row_of_the_statistics(kind):
  statistics = expert_statistics.random(layers=2)
  weights = experts.random(kind)
  dominant_E = np.array([True, False, True, False])
  second = dataclasses.replace(
    statistics,
    **{
      field.name: value[1:]
      for field in dataclasses.fields(statistics)
      if isinstance(value := getattr(statistics, field.name), np.ndarray)
    },
  )
  merged = merge_layer(statistics, weights, 1, dominant_E)
  alone = merge_layer(second, weights, 0, dominant_E)
  np.testing.assert_array_equal(merged.index_E, alone.index_E)
  for name in weights:
    np.testing.assert_array_equal(merged.experts[name], alone.experts[name])


@pytest.mark.parametrize('options', ALL, ids=str)
def test_experts_numbered_otherwise_merge_to_the_same_layer(options):
  """By their outputs. Expert 0, which others are aligned with, stays."""
  statistics = like([(0, 2), (3, 1)])
  weights = experts.random('swiglu')
  dominant_E = np.array([True, False, False, True])
  order = np.array([0, 3, 1, 2])
  merged = merge_layer(statistics, weights, 0, dominant_E, options)
  renumbered = merge_layer(
    expert_statistics.permuted(statistics, order),
    {name: array[order] for name, array in weights.items()},
    0,
    dominant_E[order],
    options,
  )
  np.testing.assert_allclose(
    experts.outputs('swiglu', renumbered.expanded(), X_TD),
    experts.outputs('swiglu', merged.expanded(), X_TD)[order],
    rtol=1e-9,
    atol=1e-12,
  )


def test_a_cut_router_has_the_rows_of_the_dominant_experts():
  router = {
    'w_DE': np.arange(12).reshape(3, 4),
    'b_E': np.arange(4),
    'w_EZ': np.arange(8).reshape(4, 2),
    'w_DZ': np.arange(4).reshape(2, 2),
    'steps': np.array(3.0),
  }
  cut = kept_rows(router, np.array([1, 3]))
  np.testing.assert_array_equal(cut['w_DE'], [[1, 3], [5, 7], [9, 11]])
  np.testing.assert_array_equal(cut['b_E'], [1, 3])
  np.testing.assert_array_equal(cut['w_EZ'], [[2, 3], [6, 7]])
  np.testing.assert_array_equal(cut['w_DZ'], router['w_DZ'])
  assert cut['steps'] == 3


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (
      MergeOptions(grouping='router'),
      "unknown grouping 'router'; did you mean",
    ),
    (MergeOptions(mean='frequent'), "unknown mean 'frequent'; did you mean"),
    (MergeOptions(capacity=1), 'capacity=1: 2 groups of 1 have no room for 4'),
  ],
)
def test_wrong_options_are_one_line(options, message):
  with pytest.raises(errors.InputError, match=message):
    merge_layer(
      like([]),
      experts.random('swiglu'),
      0,
      np.array([True, True, False, False]),
      options,
    )


def test_statistics_of_another_number_of_experts_are_one_line():
  statistics = expert_statistics.random(experts=5, first_layer=2)
  with pytest.raises(
    errors.InputError, match='of 5 experts, but layer 3 has 4'
  ):
    merge_layer(statistics, experts.random('swiglu'), 1, np.ones(4, bool))
