"""Permutation alignment: hidden units of experts in one common order.

The hidden units of an expert may be listed in any order: with a permutation
matrix P, the expert of P W_in and W_out P^T is the same function. Before
experts are averaged, unit f of one should do what unit f of the other does.

Arrays of experts are recognised by their names (`moe/experts/base.py`): the
letters behind the last underscore are their axes, E for experts first, then F
for hidden units or D for the model's width:

  gated       w_in_ED2F  b_in_E2F  w_out_EFD  b_out_ED
  two-matrix  w_in_EDF   b_in_EF   w_out_EFD  b_out_ED

Gate and up of a gated expert permute together, as both share the axis F.
"""

from collections.abc import Mapping

import numpy as np

from moejax.core import errors


def expert_arrays(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays of the experts among those of a layer, without the router's.

  Raises:
    InputError: there are none, or they are not of one kind and size.
  """
  experts = {
    name: array
    for name, array in weights.items()
    if axes_of(name)[:1] == 'E' and set(axes_of(name)[1:]) & {'D', 'F'}
  }
  sizes: dict[str, tuple[str, int]] = {}
  for name, array in experts.items():
    for axis in 'EF':
      if axis in axes_of(name):
        size = array.shape[axes_of(name).index(axis)]
        first, other = sizes.setdefault(axis, (name, size))
        if size != other:
          unit = {'E': 'experts', 'F': 'hidden units'}[axis]
          raise errors.InputError(
            f'experts are unlike: {name} has {size} {unit}, but {first} has '
            f'{other}; only experts of one kind and size can be merged'
          )
  if 'F' not in sizes:
    raise errors.InputError(
      f'no weights of experts among {", ".join(sorted(weights)) or "none"}; '
      'only experts with hidden units can be merged'
    )
  return experts


def axes_of(name: str) -> str:
  """The axes that a weight's name ends with: 'w_in_ED2F' -> 'ED2F'."""
  return name.rpartition('_')[2]


def orders(experts: Mapping[str, np.ndarray], reference: int = 0) -> np.ndarray:
  """The order of each expert's hidden units that fits an expert best.

  It maximises <W_in_ref, P W_in> + <W_out_ref, W_out P^T> over all permutations
  P, a linear sum assignment (M-SMoE, arXiv 2310.01334, section 3.1; weight
  matching of arXiv 2209.04836). A bias of hidden units counts as one more row
  of W_in.

  Args:
    experts: from `expert_arrays`.
    reference: the expert that all others are aligned with.

  Returns:
    int order_EF: unit f of the reference corresponds to unit order_EF[e, f] of
    expert e.
  """
  from scipy import optimize  # slow to import

  units = [
    np.moveaxis(array, axes_of(name).index('F'), 1)
    for name, array in experts.items()
    if 'F' in axes_of(name)
  ]
  num_experts, hidden = units[0].shape[:2]
  order_EF = np.tile(np.arange(hidden), (num_experts, 1))
  for expert in range(num_experts):
    if expert == reference:
      continue
    gain_FF = np.zeros((hidden, hidden))
    for array in units:
      both = [
        np.asarray(array[i], np.float64).reshape(hidden, -1)
        for i in (reference, expert)
      ]
      gain_FF += both[0] @ both[1].T
    _, order_EF[expert] = optimize.linear_sum_assignment(gain_FF, maximize=True)
  return order_EF


def reordered(
  experts: Mapping[str, np.ndarray], order_EF: np.ndarray
) -> dict[str, np.ndarray]:
  """The same experts with hidden units in another order, to the bit.

  Args:
    experts: from `expert_arrays`.
    order_EF: unit f of expert e becomes its former unit order_EF[e, f].
  """
  result = dict(experts)
  for name, array in experts.items():
    if 'F' in axes_of(name):
      axis = axes_of(name).index('F')
      result[name] = np.stack([
        np.take(array_e, order_F, axis=axis - 1)
        for array_e, order_F in zip(array, order_EF, strict=True)
      ])
  return result
