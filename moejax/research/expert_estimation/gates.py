"""GATES: probabilities of experts given an input, by the gate's name.

The scores are those of `moejax.moe.scorers`, which work in the precision of
their inputs. A gate returns logarithms: a density needs them where the
probability itself would underflow.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import errors, fields
from moejax.moe.routers import scores
from moejax.moe.scorers.base import Scorer, ScorerInput
from moejax.moe.scorers.laplace import Laplace
from moejax.moe.scorers.linear import Linear

Weights = dict[str, jax.Array]
Shapes = dict[str, tuple[int, ...]]

LINEAR = Linear(bias=True)
LAPLACE = Laplace(bias=True)
SCORERS: dict[str, Scorer] = {'softmax': LINEAR, 'laplace': LAPLACE}


def score(
  scorer: Scorer, slope_ED: jax.Array, bias_E: jax.Array, x_ND: jax.Array
) -> jax.Array:
  """Scores [N, E] of a scorer with a bias.

  Args:
    scorer: `LINEAR` gives slope x + bias, `LAPLACE` bias - |x - slope|.
    slope_ED: beta_1 of each expert; the centre of a Laplace gate.
    bias_E: beta_0 of each expert.
    x_ND: inputs.
  """
  token_N = jnp.zeros(x_ND.shape[0], jnp.int32)
  inputs = ScorerInput(x_TD=x_ND, token_T=token_N)
  return scorer({'w_DE': slope_ED.T, 'b_E': bias_E}, inputs)


@dataclasses.dataclass(frozen=True)
class Gate(fields.Checked):
  """A gate: the base of all gates, and the normalised score of an input.

  Attributes:
    translates: whether adding one number to all biases, or one vector to all
      slopes, leaves the gate as it is.
  """

  translates: ClassVar[bool] = False

  def shapes(self, num: int, width: int) -> Shapes:
    """Shapes of the weights by name, of `num` experts and inputs [width]."""
    return {'slope': (num, width), 'bias': (num,)}

  def check(self, num: int) -> None:
    """Raises InputError if the gate cannot choose among `num` experts."""

  def pinned(self, num: int, width: int) -> dict[str, np.ndarray]:
    """Whether a weight stays where an estimator begins, by its name."""
    shapes = self.shapes(num, width)
    return {name: np.zeros(shape, bool) for name, shape in shapes.items()}

  def mass(self, bias_E: np.ndarray) -> np.ndarray:
    """The weights of atoms in the mixing measure: exp(beta_0)."""
    return np.exp(bias_E)

  def __call__(self, weights: Weights, x_ND: jax.Array) -> jax.Array:
    """The logarithms of the gates, [N, E]; those of a row are of sum 1."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Softmax(Gate):
  """softmax(beta_1 x + beta_0): arXiv 2402.02952, 2503.03213, 2505.10860."""

  translates: ClassVar[bool] = True

  def __call__(self, weights: Weights, x_ND: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(logits(weights, x_ND))


@dataclasses.dataclass(frozen=True)
class NormalisedSigmoid(Gate):
  """sigmoid(beta_1 x + beta_0) over the sum of all: DeepSeek-V3's gate.

  arXiv 2505.10860, section 2.2; its mixing measure has the weights
  sigmoid(beta_0).

  Where no slope differs from zero, the gate is the same after all sigmoids are
  multiplied by one number; and with all biases far below zero it becomes a
  softmax, in which a common slope has no effect. The paper's assumption that
  the last gating pair is known excludes both.

  Attributes:
    pins_last: whether the last pair (slope, bias) is known and not estimated.
  """

  pins_last: bool = False

  def pinned(self, num: int, width: int) -> dict[str, np.ndarray]:
    pinned = super().pinned(num, width)
    for mask in pinned.values():
      mask[-1] = self.pins_last
    return pinned

  def mass(self, bias_E: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-bias_E))

  def __call__(self, weights: Weights, x_ND: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(jax.nn.log_sigmoid(logits(weights, x_ND)))


@dataclasses.dataclass(frozen=True)
class DenseToSparse(Gate):
  """softmax((beta_1 x + beta_0) / temperature), the temperature estimated.

  arXiv 2401.13875 and 2503.03213. The logarithm of the temperature is the
  weight, so that the temperature stays above zero.
  """

  def shapes(self, num: int, width: int) -> Shapes:
    return {**super().shapes(num, width), 'log_temperature': ()}

  def __call__(self, weights: Weights, x_ND: jax.Array) -> jax.Array:
    temperature = jnp.exp(weights['log_temperature'])
    return jax.nn.log_softmax(logits(weights, x_ND) / temperature)


@dataclasses.dataclass(frozen=True)
class LaplaceGate(Gate):
  """softmax(-|x - beta_1| + beta_0): arXiv 2410.02935."""

  def __call__(self, weights: Weights, x_ND: jax.Array) -> jax.Array:
    score_NE = score(LAPLACE, weights['slope'], weights['bias'], x_ND)
    return jax.nn.log_softmax(score_NE)


@dataclasses.dataclass(frozen=True)
class Hierarchical(Gate):
  """Two levels, p(group) p(expert | group): arXiv 2410.02935.

  Groups are runs of consecutive experts, as even as possible, as in
  `moejax.moe.routers.hierarchical`.

  Attributes:
    outer: the score of groups, `softmax` or `laplace`.
    inner: the score of experts in their group.
    groups: number of groups.
  """

  outer: str = fields.named(SCORERS, 'softmax')
  inner: str = fields.named(SCORERS, 'softmax')
  groups: int = fields.number(2, at_least=1)

  def shapes(self, num: int, width: int) -> Shapes:
    return {
      **super().shapes(num, width),
      'outer_slope': (self.groups, width),
      'outer_bias': (self.groups,),
    }

  def check(self, num: int) -> None:
    if num < self.groups:
      raise errors.InputError(
        f'a hierarchical gate of {self.groups} groups needs as many routed '
        f'experts or more; the model has {num}'
      )

  def group(self, num: int) -> np.ndarray:
    """The group of each expert, [E]."""
    return np.arange(num) * self.groups // num

  def __call__(self, weights: Weights, x_ND: jax.Array) -> jax.Array:
    group_E = self.group(weights['bias'].shape[0])
    outer_NG = jax.nn.log_softmax(
      score(
        SCORERS[self.outer],
        weights['outer_slope'],
        weights['outer_bias'],
        x_ND,
      )
    )
    inner_NE = score(
      SCORERS[self.inner], weights['slope'], weights['bias'], x_ND
    )
    parts = np.split(inner_NE, np.nonzero(np.diff(group_E))[0] + 1, axis=1)
    inner_NE = jnp.concatenate([*map(jax.nn.log_softmax, parts)], axis=1)
    return outer_NG[:, group_E] + inner_NE


@dataclasses.dataclass(frozen=True)
class TopK(Gate):
  """Softmax over the k largest of the scores: arXiv 2309.13850, 2505.10860.

  Attributes:
    k: experts of an input.
  """

  translates: ClassVar[bool] = True
  k: int = fields.number(1, at_least=1)

  def check(self, num: int) -> None:
    if self.k > num:
      raise errors.InputError(
        f'top_k keeps k={self.k} experts, but the model has {num} routed ones'
      )

  def __call__(self, weights: Weights, x_ND: jax.Array) -> jax.Array:
    logit_NE = logits(weights, x_ND)
    _, kept_NK = jax.lax.top_k(jax.lax.stop_gradient(logit_NE), self.k)
    num = logit_NE.shape[1]
    kept_NE = jnp.any(kept_NK[..., None] == jnp.arange(num), axis=1)
    # A finite logarithm, so that 0 times it is 0 and gradients are finite.
    return jax.nn.log_softmax(jnp.where(kept_NE, logit_NE, scores.LEAST_LOGIT))


def logits(weights: Weights, x_ND: jax.Array) -> jax.Array:
  """beta_1 x + beta_0 of each expert, [N, E]."""
  return score(LINEAR, weights['slope'], weights['bias'], x_ND)


GATES: dict[str, Gate] = {
  'softmax': Softmax(),
  'normalised_sigmoid': NormalisedSigmoid(),
  'normalised_sigmoid_pinned': NormalisedSigmoid(pins_last=True),
  'dense_to_sparse': DenseToSparse(),
  'laplace': LaplaceGate(),
  'softmax_softmax': Hierarchical('softmax', 'softmax'),
  'softmax_laplace': Hierarchical('softmax', 'laplace'),
  'laplace_softmax': Hierarchical('laplace', 'softmax'),
  'laplace_laplace': Hierarchical('laplace', 'laplace'),
  'top_1': TopK(1),
  'top_2': TopK(2),
  'top_3': TopK(3),
}
