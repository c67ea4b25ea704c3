"""EXPERTS: the mean of y given x, by the kind of expert.

An expert's parameters are one vector, of named parts in order, so that an
estimator needs to know nothing of the kind.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import errors, fields, special


@dataclasses.dataclass(frozen=True)
class Expert(fields.Checked):
  """A function h(x, eta): the base of all experts.

  Attributes:
    identifiable: whether the function, its first and its second derivatives,
      and products of x and the first ones, are linearly independent (strong
      identifiability, arXiv 2505.10860, definition 1).
    weakly_identifiable: whether the first derivatives are, which the dense
      regime of the normalised sigmoid asks for (its definition 2).
  """

  identifiable: ClassVar[bool] = False
  weakly_identifiable: ClassVar[bool] = True

  def parts(self, width: int) -> dict[str, int]:
    """The sizes of the parts of eta by name, in order; inputs are [width]."""
    raise NotImplementedError

  def __call__(self, eta_P: jax.Array, x_ND: jax.Array) -> jax.Array:
    """h(x, eta) of each input, [N]."""
    raise NotImplementedError

  def like(self, eta_P: np.ndarray, other_P: np.ndarray) -> np.ndarray:
    """The parameters nearest to others among all that give the same function.

    Args:
      eta_P: parameters.
      other_P: the parameters to be near to, as a rule those of a true atom.
    """
    del other_P
    return eta_P

  def size(self, width: int) -> int:
    """P, the number of parameters."""
    return sum(self.parts(width).values())

  def pack(self, values: Mapping[str, float | list[float]]) -> np.ndarray:
    """The vector eta from its parts by name, float64.

    Raises:
      InputError: a part is missing, or is not one of this expert.
    """
    width = np.size(values.get('slope', values.get('inner', [0.0])))
    parts = self.parts(width)
    if [*values] != [*parts]:
      raise errors.InputError(
        f'{type(self).__name__} has the parameters {", ".join(parts)}; given '
        f'are {", ".join(values)}'
      )
    return np.concatenate([
      np.ravel(np.asarray(value, np.float64)) for value in values.values()
    ])

  def unpack(self, eta_P: np.ndarray, width: int) -> dict[str, np.ndarray]:
    """The parts of eta by name; dimensions in front are kept."""
    parts = self.parts(width)
    ends = np.cumsum([*parts.values()])[:-1]
    return dict(zip(parts, np.split(eta_P, ends, axis=-1), strict=True))


@dataclasses.dataclass(frozen=True)
class Linear(Expert):
  """slope x + offset.

  It is not strongly identifiable: the derivative by slope is x times the
  derivative by offset, so that gate and expert exchange their errors.
  """

  def parts(self, width: int) -> dict[str, int]:
    return {'slope': width, 'offset': 1}

  def __call__(self, eta_P: jax.Array, x_ND: jax.Array) -> jax.Array:
    return x_ND @ eta_P[:-1] + eta_P[-1]


# By name, and whether act(c z) = c act(z) for c > 0, or act(-z) = -act(z).
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'relu': jax.nn.relu,
  'gelu': special.gelu,
  'sigmoid': jax.nn.sigmoid,
  'tanh': jnp.tanh,
}


@dataclasses.dataclass(frozen=True)
class FeedForward(Expert):
  """A network of two layers, outer act(inner x + offset).

  With a ReLU, (inner, offset, outer) and (c inner, c offset, outer / c) are one
  function for every c > 0. With tanh, a change of all signs is. `like` picks
  the member of such a class that is nearest to a true atom.

  Attributes:
    activation: a name in `ACTIVATIONS`.
    has_offset: whether there is an offset; arXiv 2505.10860 has one in shared
      experts and none in routed ones (appendix G.1).
  """

  identifiable: ClassVar[bool] = True

  activation: str = fields.named(ACTIVATIONS, 'relu')
  has_offset: bool = True

  def parts(self, width: int) -> dict[str, int]:
    offset = {'offset': 1} if self.has_offset else {}
    return {'inner': width, **offset, 'outer': 1}

  def __call__(self, eta_P: jax.Array, x_ND: jax.Array) -> jax.Array:
    width = x_ND.shape[1]
    z_N = x_ND @ eta_P[:width]
    if self.has_offset:
      z_N = z_N + eta_P[width]
    return eta_P[-1] * ACTIVATIONS[self.activation](z_N)

  def like(self, eta_P: np.ndarray, other_P: np.ndarray) -> np.ndarray:
    if self.activation == 'tanh':
      signs = np.array([[1.0], [-1.0]])
      return _nearest(signs * eta_P, other_P)
    if self.activation == 'relu':
      return _scaled_like(eta_P, other_P)
    return eta_P


@dataclasses.dataclass(frozen=True)
class Polynomial(Expert):
  """(slope x + offset) ** power: the ridge experts of arXiv 2402.02952.

  Attributes:
    power: p; 1 would be the linear expert.
  """

  power: int = fields.number(2, at_least=2, at_most=9)

  def parts(self, width: int) -> dict[str, int]:
    return {'slope': width, 'offset': 1}

  def __call__(self, eta_P: jax.Array, x_ND: jax.Array) -> jax.Array:
    return (x_ND @ eta_P[:-1] + eta_P[-1]) ** self.power

  def like(self, eta_P: np.ndarray, other_P: np.ndarray) -> np.ndarray:
    # An even power forgets the sign.
    signs = np.array([[1.0], [-1.0 if self.power % 2 == 0 else 1.0]])
    return _nearest(signs * eta_P, other_P)


@dataclasses.dataclass(frozen=True)
class InputFree(Expert):
  """A number, whatever the input is."""

  weakly_identifiable: ClassVar[bool] = False

  def parts(self, width: int) -> dict[str, int]:
    del width
    return {'offset': 1}

  def __call__(self, eta_P: jax.Array, x_ND: jax.Array) -> jax.Array:
    return jnp.broadcast_to(eta_P[0], x_ND.shape[:1])


EXPERTS: dict[str, Expert] = {
  'linear': Linear(),
  'relu': FeedForward('relu'),
  'relu_without_offset': FeedForward('relu', has_offset=False),
  'gelu': FeedForward('gelu'),
  'sigmoid': FeedForward('sigmoid'),
  'tanh': FeedForward('tanh'),
  'quadratic': Polynomial(2),
  'cubic': Polynomial(3),
  'input_free': InputFree(),
}


def _nearest(candidate_CP: np.ndarray, other_P: np.ndarray) -> np.ndarray:
  distance_C = np.linalg.norm(candidate_CP - other_P, axis=1)
  return candidate_CP[np.argmin(distance_C)]


def _scaled_like(eta_P: np.ndarray, other_P: np.ndarray) -> np.ndarray:
  """(c a, b / c) with the c > 0 that is nearest to (a', b').

  The derivative of |c a - a'|^2 + (b / c - b')^2 by c, times c^3 / 2, is the
  polynomial |a|^2 c^4 - a a' c^3 + b b' c - b^2.
  """
  inner_P, outer = eta_P[:-1], eta_P[-1]
  coefficients = [
    inner_P @ inner_P,
    -inner_P @ other_P[:-1],
    0.0,
    outer * other_P[-1],
    -outer * outer,
  ]
  root_C = np.roots(coefficients)
  scale_C = root_C.real[(abs(root_C.imag) < 1e-9) & (root_C.real > 0)]
  candidates = [eta_P, *(np.append(c * inner_P, outer / c) for c in scale_C)]
  return _nearest(np.stack(candidates), other_P)
