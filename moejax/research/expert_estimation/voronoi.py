"""LOSSES: Voronoi losses between a fitted and a true mixing measure.

A fitted atom belongs to the cell of the true atom that is nearest to it in
(slope, expert, variance). The cell of a true atom is exactly fitted with one
atom and over-fitted with several; an empty one counts by its weight alone.

All losses are sums of terms, which are returned by name, such as
`routed.over.expert`: the part of the model, whether cells are exactly fitted or
over-fitted, and the parameter. delta is fitted minus true, and norms are
Euclidean.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from moejax.core import errors
from moejax.research.expert_estimation.atoms import Atoms, Measures

Terms = dict[str, float]

# r(m): the smallest order at which the polynomial system of m atoms in a cell
# has no solution but the trivial one (arXiv 2505.10860, before theorem 2).
# From 4 atoms on it is known that r is 7 or more, and 7 is taken.
ORDERS = {2: 4, 3: 6}
LEAST_ORDER_ABOVE = 7


def order(num_atoms: int) -> int:
  """The order r of a cell with two atoms or more."""
  return ORDERS.get(num_atoms, LEAST_ORDER_ABOVE)


def cells(fitted: Atoms, truth: Atoms) -> list[np.ndarray]:
  """The indices of the fitted atoms of each true atom, in its order.

  Of equally near true atoms the first has the fitted atom.
  """
  apart_FTP = fitted.places[:, None] - truth.places
  nearest_F = np.argmin(np.linalg.norm(apart_FTP, axis=2), axis=1)
  return [np.flatnonzero(nearest_F == j) for j in range(len(truth))]


@dataclasses.dataclass(frozen=True)
class Power:
  """How the terms of one parameter enter a loss.

  Attributes:
    name: of the parameter, in the names of terms.
    distance: |delta| of fitted atoms from one true atom, [K].
    over: the power in an over-fitted cell of m atoms, as a function of m.
  """

  name: str
  distance: Callable[[Atoms, Atoms], np.ndarray]
  over: Callable[[int], float]


def _first(num_atoms: int) -> float:
  del num_atoms
  return 1.0


def _squared(num_atoms: int) -> float:
  del num_atoms
  return 2.0


def _half_order(num_atoms: int) -> float:
  return order(num_atoms) / 2


def _norm(value_KP: np.ndarray) -> np.ndarray:
  return np.linalg.norm(value_KP.reshape(len(value_KP), -1), axis=1)


def _slope(fitted: Atoms, true: Atoms) -> np.ndarray:
  return _norm(_known(fitted.slope_KD) - _known(true.slope_KD))


def _bias(fitted: Atoms, true: Atoms) -> np.ndarray:
  return _norm(_known(fitted.bias_K) - _known(true.bias_K))


def _variance(fitted: Atoms, true: Atoms) -> np.ndarray:
  return _norm(_known(fitted.variance_K) - _known(true.variance_K))


def _expert(fitted: Atoms, true: Atoms) -> np.ndarray:
  return _norm(fitted.parameters - true.parameters)


def _part(name: str) -> Callable[[Atoms, Atoms], np.ndarray]:
  """The distance in one part of the expert's parameters."""
  return lambda fitted, true: _norm(fitted.expert[name] - true.expert[name])


def _known(value: np.ndarray | None) -> np.ndarray:
  if value is None:
    raise ValueError('these atoms lack a parameter that the loss compares')
  return value


SLOPE = Power('slope', _slope, _squared)
EXPERT = Power('expert', _expert, _squared)
VARIANCE = Power('variance', _variance, _squared)
# Of linear experts (D2). The shared ones have no gate whose slope interacts.
SHARED_LINEAR = (
  Power('expert_slope', _part('slope'), _squared),
  Power('expert_offset', _part('offset'), order),
  Power('variance', _variance, _half_order),
)
ROUTED_LINEAR = (
  Power('slope', _slope, order),
  Power('expert_slope', _part('slope'), _half_order),
  Power('expert_offset', _part('offset'), order),
  Power('variance', _variance, _half_order),
)


def _by_cell(
  fitted: Atoms, truth: Atoms
) -> list[tuple[Atoms, Atoms, np.ndarray]]:
  """True atom, its fitted atoms, and their indices, of each cell."""
  return [
    (truth.take([j]), fitted.take(index), index)
    for j, index in enumerate(cells(fitted, truth))
  ]


def weight_term(fitted: Atoms, truth: Atoms, name: str) -> Terms:
  """sum_j |sum of fitted weights in cell j - weight of true atom j|."""
  return {
    f'{name}.weight': sum(
      abs(float(atoms.weight_K.sum() - true.weight_K[0]))
      for true, atoms, _ in _by_cell(fitted, truth)
    )
  }


def distance_terms(
  fitted: Atoms,
  truth: Atoms,
  name: str,
  powers: Sequence[Power],
  weighted: bool = True,
) -> Terms:
  """Sums of weight * |delta|, over-fitted cells with their powers.

  Args:
    fitted: fitted atoms.
    truth: true atoms.
    name: `shared` or `routed`, for the names of the terms.
    powers: the parameters.
    weighted: whether atoms count by their weights; else each by 1.
  """
  terms = {
    f'{name}.{fit}.{power.name}': 0.0
    for fit in ('exact', 'over')
    for power in powers
  }
  for true, atoms, index in _by_cell(fitted, truth):
    if len(index) == 0:
      continue
    fit = 'exact' if len(index) == 1 else 'over'
    weight_K = atoms.weight_K if weighted else np.ones(len(index))
    for power in powers:
      p = 1.0 if fit == 'exact' else power.over(len(index))
      distance_K = power.distance(atoms, true) ** p
      terms[f'{name}.{fit}.{power.name}'] += float(weight_K @ distance_K)
  return terms


def shared_terms(
  fitted: Measures, truth: Measures, powers: Sequence[Power] | None = None
) -> Terms:
  """The terms of shared experts in D1, D3, D4 and D5; none without them."""
  if truth.shared is None or fitted.shared is None:
    return {}
  one, other = fitted.shared, truth.shared
  powers = (EXPERT, VARIANCE) if powers is None else powers
  return {
    **weight_term(one, other, 'shared'),
    **distance_terms(one, other, 'shared', powers),
  }


def d1(fitted: Measures, truth: Measures) -> Terms:
  """D1: softmax gate, strongly identifiable experts (arXiv 2505.10860)."""
  one, other = fitted.routed, truth.routed
  return {
    **shared_terms(fitted, truth),
    **weight_term(one, other, 'routed'),
    **distance_terms(one, other, 'routed', (SLOPE, EXPERT, VARIANCE)),
  }


def d2(fitted: Measures, truth: Measures) -> Terms:
  """D2: softmax gate, linear experts (arXiv 2505.10860).

  Powers of over-fitted cells are orders of polynomial systems: |slope| ** r,
  |expert slope| ** (r / 2), |expert offset| ** r, |variance| ** (r / 2); the
  slope of shared experts keeps the square.
  """
  one, other = fitted.routed, truth.routed
  return {
    **shared_terms(fitted, truth, SHARED_LINEAR),
    **weight_term(one, other, 'routed'),
    **distance_terms(one, other, 'routed', ROUTED_LINEAR),
  }


def d3(fitted: Measures, truth: Measures) -> Terms:
  """D3: normalised sigmoid, sparse regime (arXiv 2505.10860).

  An exactly fitted routed atom counts by its bias and not by its weight, and
  only over-fitted cells compare weights. Routed distances are not weighted.
  """
  one, other = fitted.routed, truth.routed
  terms = {**shared_terms(fitted, truth), 'routed.over.weight': 0.0}
  terms['routed.exact.bias'] = 0.0
  for true, atoms, index in _by_cell(one, other):
    if len(index) == 1:
      terms['routed.exact.bias'] += float(_bias(atoms, true)[0])
    else:
      terms['routed.over.weight'] += abs(
        float(atoms.weight_K.sum() - true.weight_K[0])
      )
  powers = (SLOPE, EXPERT, VARIANCE)
  return terms | distance_terms(one, other, 'routed', powers, weighted=False)


def d4(fitted: Measures, truth: Measures) -> Terms:
  """D4: normalised sigmoid, dense regime (arXiv 2505.10860).

  The routed part of `truth` is the Kullback-Leibler projection of the true
  density on the model, see `projection`. All routed distances have power 1.
  """
  one, other = fitted.routed, truth.routed
  first = lambda name, distance: Power(name, distance, _first)
  powers = [
    first('slope', _slope),
    first('bias', _bias),
    first('expert', _expert),
    first('variance', _variance),
  ]
  terms = distance_terms(one, other, 'routed', powers, weighted=False)
  routed = {
    f'routed.{power.name}': terms[f'routed.exact.{power.name}']
    + terms[f'routed.over.{power.name}']
    for power in powers
  }
  return shared_terms(fitted, truth) | routed


def d5(fitted: Measures, truth: Measures, k: int) -> Terms:
  """D5: top-K softmax gate (arXiv 2505.10860): the largest D1 over K atoms.

  The routed terms are those of the K true atoms for which their sum is largest.

  Args:
    fitted: fitted measures.
    truth: true measures.
    k: experts that the true gate keeps.

  Raises:
    InputError: k is more than the number of true routed atoms.
  """
  num = len(truth.routed)
  if not 1 <= k <= num:
    raise errors.InputError(f'D5 of k={k}: there are {num} true routed atoms')
  by_atom = []
  for j, index in enumerate(cells(fitted.routed, truth.routed)):
    true, atoms = truth.routed.take([j]), fitted.routed.take(index)
    powers = (SLOPE, EXPERT, VARIANCE)
    by_atom.append({
      **weight_term(atoms, true, 'routed'),
      **distance_terms(atoms, true, 'routed', powers),
    })
  subsets = [
    {name: sum(by_atom[j][name] for j in subset) for name in by_atom[0]}
    for subset in itertools.combinations(range(num), k)
  ]
  largest = max(subsets, key=total)
  return shared_terms(fitted, truth) | largest


def needed_k(fitted: Measures, truth: Measures, k: int) -> int:
  """The experts that a fitted top-K gate has to keep, for D5 to vanish.

  It is the largest number of fitted atoms in the cells of k true ones. With
  fewer the fitted density cannot approach the true one (arXiv 2309.13850,
  theorem 2; 2505.10860, theorem 5).
  """
  sizes = sorted(map(len, cells(fitted.routed, truth.routed)), reverse=True)
  return sum(sizes[:k])


def l1(fitted: Measures, truth: Measures) -> Terms:
  """L1: least squares, softmax gate (arXiv 2402.02952).

  As the routed part of D1, without variances, which a regression has not.
  """
  one, other = fitted.routed, truth.routed
  return {
    **weight_term(one, other, 'routed'),
    **distance_terms(one, other, 'routed', (SLOPE, EXPERT)),
  }


def experts(fitted: Measures, truth: Measures) -> Terms:
  """The plain distances of experts and variances, whatever the gate is.

  It is not a loss of a paper: it compares models with different gates. Cells
  are made by experts and variances, distances have power 1, and atoms have
  equal weights, since weights of different gates cannot be compared.
  """
  return {
    key: value
    for key, value in parameter_errors(_even(fitted), _even(truth)).items()
    if key.endswith(('.expert', '.variance'))
  }


def _even(measures: Measures) -> Measures:
  """The same experts with equal weights and no gate."""
  even = lambda atoms: dataclasses.replace(
    atoms,
    weight_K=np.full(len(atoms), 1 / len(atoms)),
    slope_KD=None,
    bias_K=None,
  )
  shared = None if measures.shared is None else even(measures.shared)
  return Measures(even(measures.routed), shared)


LOSSES: dict[str, Callable[[Measures, Measures], Terms]] = {
  'D1': d1,
  'D2': d2,
  'D3': d3,
  'D4': d4,
  # Of a true gate that keeps two experts.
  'D5_2': functools.partial(d5, k=2),
  'L1': l1,
  'experts': experts,
}


def total(terms: Mapping[str, float]) -> float:
  """The loss: the sum of its terms."""
  return sum(terms.values())


def parameter_errors(fitted: Measures, truth: Measures) -> Terms:
  """The plain distance of each parameter, without the powers of a loss.

  The weighted mean of |delta| over the atoms of all exactly fitted cells, and
  of all over-fitted cells, by parameter, the parts of experts apart: its rate
  in n is that of the parameter. A kind of cell without atoms is left out.
  """
  errors_by_name: Terms = {}
  for name in ('shared', 'routed'):
    one, other = getattr(fitted, name), getattr(truth, name)
    if one is None or other is None:
      continue
    powers = _plain(other)
    sums = distance_terms(one, other, name, powers)
    masses = {'exact': 0.0, 'over': 0.0}
    for _, atoms, index in _by_cell(one, other):
      if len(index):
        fit = 'exact' if len(index) == 1 else 'over'
        masses[fit] += float(atoms.weight_K.sum())
    errors_by_name |= {
      key: value / masses[key.split('.')[1]]
      for key, value in sums.items()
      if masses[key.split('.')[1]] > 0
    }
  return errors_by_name


def _plain(truth: Atoms) -> list[Power]:
  """All parameters of such atoms, with power 1."""
  distances: dict[str, Callable[[Atoms, Atoms], np.ndarray]] = {}
  if truth.slope_KD is not None:
    distances['slope'] = _slope
  distances['expert'] = _expert
  for name in truth.expert:
    distances[f'expert_{name}'] = _part(name)
  if truth.variance_K is not None:
    distances['variance'] = _variance
  return [Power(name, distance, _first) for name, distance in distances.items()]
