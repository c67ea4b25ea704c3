"""Samples of a ground truth, exactly as the papers define them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import errors
from moejax.research.expert_estimation.model import Model, Params, double
from moejax.research.expert_estimation.truths import Truth


@dataclasses.dataclass(frozen=True)
class Sample:
  """N samples, or N nodes of a quadrature.

  Attributes:
    x_ND: inputs, float64.
    y_N: outputs, float64.
    weight_N: weights, of sum 1: 1 / N for samples.
  """

  x_ND: np.ndarray
  y_N: np.ndarray
  weight_N: np.ndarray

  def __len__(self) -> int:
    return len(self.y_N)


def draw(truth: Truth, num: int, rng: np.random.Generator) -> Sample:
  """Draws independent samples (x, y).

  x is uniform. Of a density, y is drawn from the mixture: a fair coin decides
  between the shared and the routed part, then an expert of that part is drawn
  with its probability at x, then y from its normal distribution. (An average of
  one draw of each part is another density, and not the one of the papers.) Of a
  regression, y is the mean plus Gaussian noise.

  Args:
    truth: what is sampled.
    num: N.
    rng: random numbers; equal generators give equal samples.

  Raises:
    InputError: num is less than 1.
  """
  if num < 1:
    raise errors.InputError(f'num={num} samples: draw at least 1')
  model = truth.model
  x_ND = rng.uniform(-truth.edge, truth.edge, (num, model.width))
  weight_N = np.full(num, 1 / num)
  noise_N = rng.standard_normal(num)
  if model.regression:
    with double():
      mean_N = np.asarray(_mean(model, truth.params, x_ND))
    return Sample(x_ND, mean_N + truth.noise * noise_N, weight_N)
  share_NK, mean_NK, variance_K = components(truth, x_ND)
  # The first component whose cumulated probability passes a uniform number.
  edge_NK = np.cumsum(share_NK, axis=1)
  uniform_N = rng.uniform(0, 1, num) * edge_NK[:, -1]
  chosen_N = np.argmax(edge_NK > uniform_N[:, None], axis=1)
  mean_N = np.take_along_axis(mean_NK, chosen_N[:, None], axis=1)[:, 0]
  y_N = mean_N + np.sqrt(variance_K[chosen_N]) * noise_N
  return Sample(x_ND, y_N, weight_N)


def components(
  truth: Truth, x_ND: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The normal distributions that the density mixes at each input.

  Returns:
    Their probabilities [N, S + E], shared ones first; their means [N, S + E];
    and their variances [S + E].
  """
  model, params = truth.model, truth.params
  with double():
    share_NE, mean_NE, shared_NS, share_S = map(
      np.asarray, _parts(model, params, x_ND)
    )
  variance_E = np.exp(params.log_variance_E)
  if model.shared is None:
    return share_NE, mean_NE, variance_E
  share_NS = np.broadcast_to(share_S, shared_NS.shape)
  return (
    0.5 * np.concatenate([share_NS, share_NE], axis=1),
    np.concatenate([shared_NS, mean_NE], axis=1),
    np.concatenate([np.exp(params.shared_log_variance_S), variance_E]),
  )


@functools.partial(jax.jit, static_argnames='model')
def _mean(model: Model, params: Params, x_ND: jax.Array) -> jax.Array:
  return model.mean(params, x_ND)


@functools.partial(jax.jit, static_argnames='model')
def _parts(
  model: Model, params: Params, x_ND: jax.Array
) -> tuple[jax.Array, ...]:
  """Gates and means of routed experts, means and shares of shared ones."""
  return (
    jnp.exp(model.log_gates(params, x_ND)),
    model.routed_means(params, x_ND),
    model.shared_means(params, x_ND),
    jnp.exp(model.log_shares(params)),
  )


def quadrature(truth: Truth, num_x: int = 200, num_y: int = 20) -> Sample:
  """Nodes and weights for expectations under a density, inputs [1].

  Gauss-Legendre nodes in x, and for each normal distribution of the mixture
  Gauss-Hermite nodes in y. A sum over the nodes with their weights is, at each
  x, the exact expectation of a polynomial in y of a degree below 2 num_y.

  Args:
    truth: a density with inputs of one dimension.
    num_x: nodes in x.
    num_y: nodes in y for each normal distribution.
  """
  node_X, weight_X = np.polynomial.legendre.leggauss(num_x)
  node_Y, weight_Y = np.polynomial.hermite_e.hermegauss(num_y)
  x_XD = truth.edge * node_X[:, None]
  share_XK, mean_XK, variance_K = components(truth, x_XD)
  y_XKY = mean_XK[..., None] + np.sqrt(variance_K)[:, None] * node_Y
  weight_XKY = (
    weight_X[:, None, None]
    / weight_X.sum()
    * share_XK[..., None]
    * weight_Y
    / weight_Y.sum()
  )
  x_XKY = np.broadcast_to(x_XD[:, :, None], y_XKY.shape)
  return Sample(x_XKY.reshape(-1, 1), y_XKY.ravel(), weight_XKY.ravel())
