"""Permutation alignment: exact for every kind of experts, and the best one."""

import itertools

import numpy as np
import pytest
from helpers import experts

from moejax.compress import alignment
from moejax.core import errors

X_TD = np.random.default_rng(1).normal(size=(7, 3))


@pytest.mark.parametrize('kind', experts.SHAPES)
def test_aligned_experts_compute_the_same_function(kind):
  weights = experts.random(kind)
  order_EF = alignment.orders(weights)
  aligned = alignment.reordered(weights, order_EF)
  assert not np.array_equal(aligned['w_out_EFD'], weights['w_out_EFD'])
  np.testing.assert_allclose(
    experts.outputs(kind, aligned, X_TD),
    experts.outputs(kind, weights, X_TD),
    rtol=1e-12,
    atol=1e-14,
  )


@pytest.mark.parametrize('kind', experts.SHAPES)
def test_alignment_finds_the_order_of_a_shuffled_expert(kind):
  """Expert 1 is expert 0 with other places for its units."""
  weights = experts.random(kind, experts=1)
  shuffle_F = np.array([3, 0, 5, 1, 4, 2])
  shuffled = alignment.reordered(weights, shuffle_F[None])
  pair = {
    name: np.concatenate([weights[name], shuffled[name]]) for name in weights
  }
  order_EF = alignment.orders(pair)
  np.testing.assert_array_equal(order_EF[0], np.arange(6))
  np.testing.assert_array_equal(order_EF[1], np.argsort(shuffle_F))
  aligned = alignment.reordered(pair, order_EF)
  for name in weights:
    np.testing.assert_array_equal(aligned[name][1], weights[name][0])


@pytest.mark.parametrize('reference', [0, 1])
@pytest.mark.parametrize('kind', experts.SHAPES)
def test_alignment_is_the_best_of_all_permutations(kind, reference):
  """<W_in_ref, P W_in> + <W_out_ref, W_out P^T> of all 720, one by one."""
  weights = experts.random(kind, experts=2, seed=3)
  units = [name for name in weights if 'F' in name.rpartition('_')[2]]

  def gain(order_F):
    identity_F = np.arange(6)
    order_EF = np.array([identity_F, identity_F])
    order_EF[1 - reference] = order_F
    pair = alignment.reordered(weights, order_EF)
    return sum((pair[name][0] * pair[name][1]).sum() for name in units)

  best = max(map(gain, map(list, itertools.permutations(range(6)))))
  order_EF = alignment.orders(weights, reference)
  assert gain(order_EF[1 - reference]) == pytest.approx(best, rel=1e-12)
  np.testing.assert_array_equal(order_EF[reference], np.arange(6))


def test_units_of_four_experts_by_hand():
  """Two units; experts 1 and 3 have them the other way round."""
  w_in_EDF = np.array([[[1, 2.0]], [[3, 1]], [[0, 5]], [[2, 0]]])
  w_out_EFD = np.array([[[1.0], [0]], [[0], [1]], [[1], [0]], [[-1], [0]]])
  # Gains in this order, and the other: 1 3+2+0=5 and 1+6+1=8; 2 0+10+1=11 and
  # 5+0+0=5; 3 2+0-1=1 and 0+4+0=4.
  order_EF = alignment.orders({'w_in_EDF': w_in_EDF, 'w_out_EFD': w_out_EFD})
  np.testing.assert_array_equal(order_EF, [[0, 1], [1, 0], [0, 1], [1, 0]])


def test_experts_are_told_from_the_router():
  weights = experts.random('clamped_swiglu')
  router = {
    'w_DE': np.ones((3, 4)),
    'w_EZ': np.ones((4, 2)),
    'b_E': np.ones(4),
    'steps': np.ones(()),
  }
  assert alignment.expert_arrays({**router, **weights}).keys() == weights.keys()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'w_out_EFD': (4, 5, 3)}, 'w_out_EFD has 5 hidden units, but w_in_ED2F'),
    ({'w_out_EFD': (3, 6, 3)}, 'w_out_EFD has 3 experts, but w_in_ED2F has 4'),
  ],
)
def test_experts_that_are_unlike_are_one_line(change, message):
  weights = experts.random('swiglu')
  weights |= {name: np.ones(shape) for name, shape in change.items()}
  with pytest.raises(errors.InputError, match=message):
    alignment.expert_arrays(weights)


def test_a_layer_without_experts_is_one_line():
  with pytest.raises(errors.InputError, match='no weights of experts among w_'):
    alignment.expert_arrays({'w_DE': np.ones((3, 4))})
