"""Voronoi losses on atoms whose terms are worked by hand."""

import numpy as np
import pytest

from moejax.core import errors
from moejax.research.expert_estimation import align, voronoi
from moejax.research.expert_estimation.atoms import Atoms, Measures
from moejax.research.expert_estimation.experts import EXPERTS, Linear
from moejax.research.expert_estimation.gates import GATES


def logit(p):
  return np.log(p) - np.log1p(-np.asarray(p))


def atoms(weight, variance=None, slope=None, bias=None, *, expert):
  """Atoms of one dimension from lists."""
  column = lambda values: np.asarray(values, float)[:, None]
  return Atoms(
    weight_K=np.asarray(weight, float),
    expert={name: column(values) for name, values in expert.items()},
    variance_K=None if variance is None else np.asarray(variance, float),
    slope_KD=None if slope is None else column(slope),
    bias_K=None if bias is None else np.asarray(bias, float),
  )


def routed(weight, slope, eta, variance, bias=None):
  return atoms(weight, variance, slope, bias, expert={'eta': eta})


SHARED = atoms([1.0], [1.0], expert={'eta': [0.0]})
TRUTH = Measures(
  routed([1.0, 2.0], [0.0, 4.0], [10.0, -10.0], [1.0, 1.0]), SHARED
)
# One shared atom split in two; each routed atom fitted by one.
EXACT = Measures(
  routed([1.1, 1.8], [0.1, 3.8], [10.3, -10.0], [1.2, 1.0]),
  atoms([0.25, 0.75], [1.1, 0.9], expert={'eta': [0.2, -0.1]}),
)
# The first routed atom split in two.
SPLIT = Measures(
  routed([0.4, 0.5, 2.0], [0.5, -0.2, 4.5], [10.0, 11.0, -10.0], [1, 1, 2]),
  SHARED,
)


def approx(terms):
  return pytest.approx(terms, abs=1e-12)


@pytest.mark.parametrize('loss', ['D1', 'D3', 'D4', 'L1'])
def test_a_measure_has_no_distance_from_itself(loss):
  truth = Measures(
    routed([0.3, 0.6], [0, 4], [10, -10], [1, 1], bias=logit([0.3, 0.6])),
    SHARED,
  )
  assert set(voronoi.LOSSES[loss](truth, truth).values()) == {0.0}


def test_d1_of_exact_routed_atoms_and_a_shared_atom_split_in_two():
  assert voronoi.d1(EXACT, TRUTH) == approx({
    'shared.weight': 0.0,
    'shared.exact.expert': 0.0,
    'shared.exact.variance': 0.0,
    'shared.over.expert': 0.25 * 0.2**2 + 0.75 * 0.1**2,
    'shared.over.variance': 0.25 * 0.1**2 + 0.75 * 0.1**2,
    'routed.weight': 0.1 + 0.2,
    'routed.exact.slope': 1.1 * 0.1 + 1.8 * 0.2,
    'routed.exact.expert': 1.1 * 0.3,
    'routed.exact.variance': 1.1 * 0.2,
    'routed.over.slope': 0.0,
    'routed.over.expert': 0.0,
    'routed.over.variance': 0.0,
  })


def test_d1_of_a_routed_atom_split_in_two():
  terms = voronoi.d1(SPLIT, TRUTH)
  assert terms['routed.weight'] == pytest.approx(0.1)
  assert terms['routed.exact.slope'] == pytest.approx(2.0 * 0.5)
  assert terms['routed.exact.variance'] == pytest.approx(2.0 * 1.0)
  assert terms['routed.over.slope'] == pytest.approx(
    0.4 * 0.5**2 + 0.5 * 0.2**2
  )
  assert terms['routed.over.expert'] == pytest.approx(0.5 * 1.0)
  assert voronoi.total(terms) == pytest.approx(0.1 + 1 + 2 + 0.12 + 0.5)


def test_the_norm_of_an_expert_is_that_of_all_its_parameters():
  true = atoms([1.0], [1.0], [0.0], expert={'a': [0.0], 'b': [0.0]})
  fit = atoms([1.0], [1.0], [0.0], expert={'a': [3.0], 'b': [4.0]})
  terms = voronoi.d1(Measures(fit), Measures(true))
  assert terms['routed.exact.expert'] == pytest.approx(5.0)


def test_cells_are_those_of_the_euclidean_distance():
  """(3, 3) is farther from the origin than (4, 0), though 3 is less than 4."""
  true = atoms([1.0, 1.0], expert={'a': [3.0, 4.0], 'b': [3.0, 0.0]})
  fit = atoms([1.0], expert={'a': [0.0], 'b': [0.0]})
  assert [index.tolist() for index in voronoi.cells(fit, true)] == [[], [0]]


def test_an_empty_cell_counts_by_its_weight_alone():
  one = Measures(routed([1.5], [0.0], [10.0], [1.0]), SHARED)
  assert voronoi.total(voronoi.d1(one, TRUTH)) == pytest.approx(0.5 + 2.0)


@pytest.mark.parametrize('loss', ['D1', 'D3', 'D4', 'L1'])
@pytest.mark.parametrize('order', [[1, 0, 2], [2, 0, 1], [2, 1, 0]])
def test_the_order_of_fitted_atoms_has_no_effect(loss, order):
  truth = Measures(
    routed([0.3, 0.6], [0, 4], [10, -10], [1, 1], bias=logit([0.3, 0.6])),
    SHARED,
  )
  weight = [0.4, 0.5, 0.2]
  fit = routed(
    weight, [0.5, -0.2, 4.5], [10.0, 11.0, -10.0], [1, 1, 2], logit(weight)
  )
  function = voronoi.LOSSES[loss]
  swapped = function(Measures(fit.take(order), SHARED), truth)
  assert swapped == approx(function(Measures(fit, SHARED), truth))
  # And that of true atoms.
  other = Measures(truth.routed.take([1, 0]), SHARED)
  assert function(Measures(fit, SHARED), other) == approx(swapped)


def linear(weight, slope, expert_slope, offset, variance):
  """Atoms of linear experts."""
  expert = {'slope': expert_slope, 'offset': offset}
  return atoms(weight, variance, slope, expert=expert)


@pytest.mark.parametrize(('num', 'order'), [(2, 4), (3, 6), (4, 7)])
def test_d2_takes_the_order_of_the_polynomial_system_of_a_cell(num, order):
  ones = np.ones(num)
  true = Measures(
    linear([1.0], [0.0], [0.0], [0.0], [1.0]),
    linear([1.0], None, [0.0], [0.0], [1.0]),
  )
  fit = Measures(
    linear(ones / num, 0.1 * ones, 0.2 * ones, 0.3 * ones, 1.4 * ones),
    linear(ones / num, None, 0.5 * ones, 0.6 * ones, 1.7 * ones),
  )
  terms = voronoi.d2(fit, true)
  over = {k: v for k, v in terms.items() if '.over.' in k}
  assert over == approx({
    'shared.over.expert_slope': 0.5**2,
    'shared.over.expert_offset': 0.6**order,
    'shared.over.variance': 0.7 ** (order / 2),
    'routed.over.slope': 0.1**order,
    'routed.over.expert_slope': 0.2 ** (order / 2),
    'routed.over.expert_offset': 0.3**order,
    'routed.over.variance': 0.4 ** (order / 2),
  })
  assert voronoi.total(terms) == pytest.approx(sum(over.values()))


def test_d2_of_exactly_fitted_atoms_is_of_first_order():
  true = Measures(linear([2.0], [0.0], [0.0], [0.0], [1.0]))
  fit = Measures(linear([2.0], [0.1], [0.2], [0.3], [1.4]))
  assert voronoi.total(voronoi.d2(fit, true)) == pytest.approx(
    2 * (0.1 + 0.2 + 0.3 + 0.4)
  )


def test_d3_compares_biases_of_exact_atoms_and_weights_of_split_ones():
  bias = logit([0.3, 0.6])
  truth = Measures(routed([0.3, 0.6], [0, 0], [10, -10], [1, 1], bias))
  weight = [0.1, 0.15, 0.7]
  fit = routed(
    weight, [0.5, -0.2, 0.1], [10, 11, -10.5], [1, 1, 2], logit(weight)
  )
  terms = voronoi.d3(Measures(fit), truth)
  assert terms == approx({
    'routed.over.weight': 0.05,
    'routed.exact.bias': abs(logit(0.7) - logit(0.6)),
    # Routed distances of D3 have no weights.
    'routed.exact.slope': 0.1,
    'routed.exact.expert': 0.5,
    'routed.exact.variance': 1.0,
    'routed.over.slope': 0.5**2 + 0.2**2,
    'routed.over.expert': 1.0,
    'routed.over.variance': 0.0,
  })


def test_d4_is_of_first_order_in_all_cells():
  bias = logit([0.3, 0.6])
  truth = Measures(routed([0.3, 0.6], [0, 4], [10, -10], [1, 1], bias))
  weight = [0.3, 0.3, 0.6]
  fit = routed(
    weight, [0.5, -0.2, 4.0], [10, 11, -10], [1, 1.3, 1], logit(weight)
  )
  assert voronoi.d4(Measures(fit), truth) == approx({
    'routed.slope': 0.7,
    'routed.bias': 0.0,
    'routed.expert': 1.0,
    'routed.variance': 0.3,
  })


def test_d5_takes_the_true_atoms_of_which_the_sum_is_largest():
  alone = voronoi.d5(SPLIT, TRUTH, 1)
  # Of the first atom: 0.1 + 0.12 + 0.5; of the second: 1 + 2.
  assert voronoi.total(alone) == pytest.approx(3.0)
  both = voronoi.d5(SPLIT, TRUTH, 2)
  assert voronoi.total(both) == pytest.approx(
    voronoi.total(voronoi.d1(SPLIT, TRUTH))
  )
  assert voronoi.needed_k(SPLIT, TRUTH, 1) == 2
  assert voronoi.needed_k(SPLIT, TRUTH, 2) == 3
  with pytest.raises(errors.InputError, match='there are 2 true routed atoms'):
    voronoi.d5(SPLIT, TRUTH, 3)


def test_l1_has_neither_variances_nor_shared_experts():
  terms = voronoi.l1(SPLIT, TRUTH)
  assert voronoi.total(terms) == pytest.approx(0.1 + 1 + 0.12 + 0.5)
  assert not any('variance' in name or 'shared' in name for name in terms)


def test_parameter_errors_are_weighted_means_of_plain_distances():
  rows = voronoi.parameter_errors(SPLIT, TRUTH)
  assert rows['routed.exact.variance'] == pytest.approx(1.0)
  assert rows['routed.over.slope'] == pytest.approx(
    (0.4 * 0.5 + 0.5 * 0.2) / 0.9
  )
  assert rows['routed.over.expert_eta'] == pytest.approx(0.5 / 0.9)
  assert 'shared.over.expert' not in rows


def test_a_translated_softmax_is_moved_back():
  """A fit that differs from the truth by a translation has no loss."""
  slope, bias = np.array([0.0, 4.0]), np.log([1.0, 2.0])
  moved = routed(np.exp(bias + 3), slope - 7, [10, -10], [1, 1], bias + 3)
  true = routed([1, 2], slope, [10, -10], [1, 1], bias)
  back = align.translated(moved, true)
  assert voronoi.total(
    voronoi.d1(Measures(back), Measures(true))
  ) == pytest.approx(0, abs=1e-12)


def test_a_translation_is_that_of_the_weighted_mean_slope():
  """Weights 1 and 3, off by 1 and 2 after a translation by 5: 7/4 is left."""
  weight = np.array([1.0, 3.0])
  true = routed(weight, [0.0, 4.0], [10, -10], [1, 1], np.log(weight))
  slope = np.array([0.0 + 1 + 5, 4.0 + 2 + 5])
  fit = routed(weight, slope, [10, -10], [1, 1], np.log(weight))
  back = align.translated(fit, true)
  np.testing.assert_allclose(
    back.slope_KD[:, 0], [1 - 7 / 4, 4 + 2 - 7 / 4], rtol=1e-12
  )


def test_sigmoids_without_slopes_are_scaled_back():
  weight = np.array([0.3, 0.6])
  true = routed(weight, [0, 0], [10, -10], [1, 1], logit(weight))
  fit = routed(weight / 2, [0, 0], [10, -10], [1, 1], logit(weight / 2))
  back = align.rescaled(fit, true)
  np.testing.assert_allclose(back.weight_K, weight)
  np.testing.assert_allclose(back.bias_K, logit(weight))


def test_orders_of_cells_are_those_of_the_paper():
  assert [voronoi.order(m) for m in (2, 3, 4, 9)] == [4, 6, 7, 7]


@pytest.mark.parametrize(
  ('expert', 'eta', 'same', 'other'),
  [
    # 3 relu(2 x + 1) = 1.5 relu(4 x + 2)
    ('relu', [2.0, 1.0, 3.0], [4.0, 2.0, 1.5], None),
    ('tanh', [2.0, 1.0, 3.0], [-2.0, -1.0, -3.0], None),
    ('quadratic', [2.0, 1.0], [-2.0, -1.0], None),
    # These two classes have one member.
    ('sigmoid', [2.0, 1.0, 3.0], None, [-2.0, -1.0, -3.0]),
    ('cubic', [2.0, 1.0], None, [-2.0, -1.0]),
  ],
)
def test_an_expert_is_compared_by_the_nearest_member_of_its_class(
  expert, eta, same, other
):
  kind, eta = EXPERTS[expert], np.array(eta)
  there = np.array(same or other)
  x_ND = np.linspace(-2, 2, 7)[:, None]
  moved = kind.like(there, eta)
  np.testing.assert_allclose(kind(moved, x_ND), kind(there, x_ND), rtol=1e-5)
  if same:
    np.testing.assert_allclose(moved, eta, rtol=1e-6)
  else:
    np.testing.assert_array_equal(moved, there)


def test_the_scale_of_a_relu_is_the_nearest_one():
  """Against a search over a fine grid of scales."""
  eta, true = np.array([1.0, -0.5, 3.0]), np.array([2.0, 0.3, 1.0])
  scale = np.geomspace(1e-2, 1e2, 20_001)
  grid = np.stack([scale * eta[0], scale * eta[1], eta[2] / scale], axis=1)
  least = np.linalg.norm(grid - true, axis=1).min()
  found = EXPERTS['relu'].like(eta, true)
  assert np.linalg.norm(found - true) == pytest.approx(least, rel=1e-6)


def test_linear_experts_are_not_strongly_identifiable():
  assert not Linear.identifiable
  assert EXPERTS['gelu'].identifiable
  assert not EXPERTS['input_free'].weakly_identifiable
  assert GATES['softmax'].translates
  assert not GATES['normalised_sigmoid'].translates
