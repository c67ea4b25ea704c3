"""MATRICES: how weights that are matrices are updated, by name.

  opt.matrices.name=muon       Muon for matrices, AdamW for all else

Muon (K. Jordan, 2024, "Muon: an optimizer for hidden layers in neural
networks"; arXiv 2502.16982) makes of the momentum of a matrix the nearest
matrix with equal singular values, by Newton-Schulz iterations, which optax has.
Embeddings, the head, norms and biases keep AdamW, as in arXiv 2502.16982.

A weight's name says by its letters what it multiplies: `w_q_DHK` is a matrix
from D to H x K. Layers that are stacked, experts (E in front) and matrices that
are joined (2) are matrices of their own:

  w_q_DHK     [layers, D, H, K]       D to H K, for each layer
  w_in_ED2F   [layers, E, D, 2, F]    D to F, for each layer, expert and half
  w_DE        [layers, D, E]          D to E, for each layer: a router
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from optax import contrib

from moejax.core import fields, trees

# Letters of heads, each followed by one of their width: one side of a matrix.
_HEADS = re.compile(r'[HG][KV]')
# A vocabulary is no matrix: each row is a vector of its own.
_VOCABULARY = ('embed_', 'head_')


@dataclasses.dataclass(frozen=True)
class AdamW(fields.Checked):
  """Matrices as all other weights."""

  def transform(
    self, rate: optax.ScalarOrSchedule, weight_decay: float
  ) -> optax.GradientTransformation | None:
    """The transformation of matrices; None for that of all weights.

    Args:
      rate: learning rate.
      weight_decay: decoupled, multiplied by the learning rate.
    """
    del rate, weight_decay
    return None


@dataclasses.dataclass(frozen=True)
class Muon(AdamW):
  """Muon, with updates as large as AdamW's (arXiv 2502.16982, section 2.2).

  Attributes:
    momentum: decay of the mean of gradients.
    nesterov: whether the gradient is added to the momentum once more.
    iterations: of Newton and Schulz.
    rms: root of the mean square of an update over the learning rate. 0.2 is
      about that of AdamW, so that both have one learning rate and one weight
      decay.
  """

  momentum: float = fields.number(0.95, at_least=0, below=1)
  nesterov: bool = True
  iterations: int = fields.number(5, at_least=1, at_most=100)
  rms: float = fields.number(0.2, above=0, at_most=100)

  def transform(
    self, rate: optax.ScalarOrSchedule, weight_decay: float
  ) -> optax.GradientTransformation:
    """See `AdamW`."""
    return optax.chain(
      contrib.scale_by_muon(
        ns_steps=self.iterations,
        beta=self.momentum,
        nesterov=self.nesterov,
        weight_dimension_numbers=_every(_dimensions),
      ),
      optax.stateless(lambda updates, _: _every(self._scaled)(updates)),
      optax.add_decayed_weights(weight_decay),
      optax.scale_by_learning_rate(rate),
    )

  def _scaled(self, path: str, update: jax.Array) -> jax.Array:
    """An update whose singular values are 1, with the mean square of `rms`."""
    longest = max(
      math.prod(update.shape[n] for n in axes)
      for axes in _axes(path, update.ndim)
    )
    return update * self.rms * math.sqrt(longest)


MATRICES: Mapping[str, type[AdamW]] = {'adamw': AdamW, 'muon': Muon}


def is_matrix(path: str, decays: bool) -> bool:
  """Whether a weight is a matrix, or a stack of matrices.

  Args:
    path: of the weight.
    decays: whether weight decay applies to it, as it does to matrices alone.
  """
  return decays and _sides(path) is not None


def _sides(path: str) -> tuple[range, range, int] | None:
  """Places of the axes of both sides in the letters of a weight's name.

  Returns:
    The axes that are summed over, those of the output, and the number of
    letters; None for a weight that is no matrix.
  """
  name = path.rpartition('/')[2]
  if name.startswith(_VOCABULARY) or path.startswith('vision/'):
    return None
  letters = name.rpartition('_')[2]
  if not re.fullmatch(r'[A-Z0-9]{2,}', letters):
    return None
  groups, place = list[range](), 0
  while place < len(letters):
    width = 2 if _HEADS.match(letters, place) else 1
    stacked = letters[place] == '2' or (letters[place] == 'E' and not place)
    if not stacked:
      groups.append(range(place, place + width))
    place += width
  if len(groups) != 2:
    return None
  return groups[0], groups[1], len(letters)


def _dimensions(path: str, weight: Any) -> contrib.MuonDimensionNumbers:
  """The axes of both sides of a matrix; all others are of a stack."""
  return contrib.MuonDimensionNumbers(*_axes(path, weight.ndim))


def _axes(path: str, ndim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """The axes of both sides of a matrix, behind those of stacked layers."""
  sides = _sides(path)
  assert sides is not None, path
  first, second, count = sides
  places = lambda side: tuple(ndim - count + n for n in side)
  return places(first), places(second)


def _every(of: Callable[[str, Any], Any]) -> Callable[[Any], Any]:
  return lambda tree: trees.map_paths(of, tree)
