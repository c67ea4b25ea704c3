"""One iteration of EM: sums over samples, and the parameters that they give.

EM reads the samples only to form sums, weighted by responsibilities r, the
probabilities that an atom drew a sample. `of` forms them, and `improved` makes
an iteration of them:

1. E: r of all atoms at the present parameters
2. M, shared weights: omega is proportional to the sums of r
3. M, experts: one Gauss-Newton step of sum r (y - h)^2 for each atom. For
   linear and input-free experts it is weighted least squares: the maximum.
4. M, variances: the weighted mean of (y - h)^2 after that step, to first order
   in it; exact for linear experts. At least `least_variance`.
5. M, gate: one Fisher scoring step of sum r log gate; Newton's step for softmax
   (Chamroukhi et al., 2009)

`scored` is the iteration that the scores of single samples allow, the gradients
of log p(y | x): the sum of their outer products estimates the information of
the sample, with which Newton's step is far longer than that of EM where a model
is over-fitted (Meilijson, 1989). It costs no further look at the samples.

Sums of samples are the sums of sums of their blocks, so that memory does not
grow with the samples. Rows are the last axis of all arrays: a processor then
works on several of them at once.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.flatten_util
import jax.numpy as jnp

from moejax.research.expert_estimation.experts import Expert
from moejax.research.expert_estimation.model import (
  LOG_HALF,
  LOG_TWO_PI,
  Model,
  Params,
)

# Of a matrix that is solved for, relative to its mean diagonal: directions in
# which the likelihood is constant, as the scale of a ReLU, keep their values.
RIDGE = 1e-10
LEAST_MASS = 1e-30


@flax.struct.dataclass
class Experts:
  """Sums over samples for K experts of P parameters, of residuals e = y - h.

  Attributes:
    mass_K: sum r.
    square_K: sum r e^2.
    information_KPP: sum r (dh/deta)(dh/deta)'.
  """

  mass_K: Any
  square_K: Any
  information_KPP: Any


@flax.struct.dataclass
class Sums:
  """All that an iteration needs of the samples, for V parameters.

  Attributes:
    value: sum of weight * log p(y | x).
    gradient_V: its gradient, in the order of `flat`.
    scores_VV: sum of weight * (score)(score)'.
    gate_GG: the expected information of sum r log gate.
    routed: of routed experts.
    shared: of shared experts; None without any.
  """

  value: Any
  gradient_V: Any
  scores_VV: Any
  gate_GG: Any
  routed: Experts
  shared: Experts | None


def flat(params: Params) -> jax.Array:
  """The parameters of one trial as a vector."""
  return jax.flatten_util.ravel_pytree(params)[0]


def rebuilder(model: Model) -> Callable[[jax.Array], Params]:
  """The function from flat parameters to `Params`."""
  return jax.flatten_util.ravel_pytree(model.zeros())[1]


def of(
  model: Model,
  params: Params,
  x_ND: jax.Array,
  y_N: jax.Array,
  weight_N: jax.Array,
) -> Sums:
  """The sums of some samples of one trial.

  Args:
    model: a density.
    params: the present parameters.
    x_ND: inputs.
    y_N: outputs.
    weight_N: weights of samples; those of all samples together are of sum 1,
      and a row of weight 0 adds nothing.
  """
  log_gate_EN, slope_GEN = log_gates(model, params.gate, x_ND)
  routed = _Part(model.routed, params.routed_EP, params.log_variance_E)
  routed_EN = routed.log_densities(x_ND, y_N)
  part_KN = log_gate_EN + routed_EN
  if model.shared is not None:
    shared = _Part(model.shared, params.shared_SQ, params.shared_log_variance_S)
    shared_SN = shared.log_densities(x_ND, y_N)
    shared_SN += model.log_shares(params)[:, None]
    part_KN = LOG_HALF + jnp.concatenate([shared_SN, part_KN])
  top_N = part_KN.max(axis=0)
  density_KN = jnp.exp(part_KN - top_N)
  total_N = density_KN.sum(axis=0)
  share_KN = density_KN / total_N
  share_EN = share_KN[model.num_shared :]
  rows = [
    (slope_GEN * share_EN).sum(axis=1),
    *routed.scores(share_EN),
  ]
  if model.shared is not None:
    share_SN = share_KN[: model.num_shared]
    omega_S = jnp.exp(model.log_shares(params))
    rows += shared.scores(share_SN)
    rows += [share_SN - omega_S[:, None] * share_SN.sum(axis=0)]
  score_VN = jnp.concatenate(rows)
  return Sums(
    value=weight_N @ (top_N + jnp.log(total_N)),
    gradient_V=score_VN @ weight_N,
    scores_VV=(weight_N * score_VN) @ score_VN.T,
    gate_GG=of_gate(log_gate_EN, slope_GEN, weight_N * share_EN),
    routed=routed.sums(share_EN, weight_N),
    shared=None if model.shared is None else shared.sums(share_SN, weight_N),
  )


def log_gates(
  model: Model, weights: dict[str, Any], x_ND: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Logarithms of gates [E, N], and their derivatives [G, E, N].

  A weight that is pinned has the derivative 0, so that it never moves.
  """
  flat_G, rebuild = jax.flatten_util.ravel_pytree(weights)
  log_gate_EN, linear = jax.linearize(
    lambda flat_G: model.gate(rebuild(flat_G), x_ND).T, flat_G
  )
  pinned_G, _ = jax.flatten_util.ravel_pytree(
    model.gate.pinned(model.num_routed, model.width)
  )
  directions_GG = jnp.diag(jnp.where(pinned_G, 0.0, jnp.ones_like(flat_G)))
  return log_gate_EN, jax.vmap(linear)(directions_GG)


def of_gate(
  log_gate_EN: jax.Array, slope_GEN: jax.Array, share_EN: jax.Array
) -> jax.Array:
  """The expected information of sum r log gate, [G, G].

  Args:
    log_gate_EN: logarithms of the gates.
    slope_GEN: their derivatives.
    share_EN: responsibilities times weights of samples.
  """
  # A gate that is zero has the logarithm -1e30, and no share.
  expected_EN = share_EN.sum(axis=0) * jnp.exp(log_gate_EN)
  rows = lambda array: array.reshape(slope_GEN.shape[0], -1)
  return rows(expected_EN * slope_GEN) @ rows(slope_GEN).T


class _Part:
  """The shared or the routed experts, and their sums of some samples."""

  def __init__(
    self, expert: Expert, eta_KP: jax.Array, log_variance_K: jax.Array
  ):
    self._expert = expert
    self._eta_KP = eta_KP
    self._log_variance_K = log_variance_K
    self._precision_K = jnp.exp(-log_variance_K)

  def log_densities(self, x_ND: jax.Array, y_N: jax.Array) -> jax.Array:
    """Log N(y | h, variance), [K, N]; further calls are about these samples."""
    basis_PP = jnp.eye(self._eta_KP.shape[1], dtype=self._eta_KP.dtype)

    def one(eta_P: jax.Array) -> tuple[jax.Array, jax.Array]:
      mean_N, linear = jax.linearize(lambda eta: self._expert(eta, x_ND), eta_P)
      return y_N - mean_N, jax.vmap(linear)(basis_PP)

    self._error_KN, self._slope_KPN = jax.vmap(one)(self._eta_KP)
    self._square_KN = jnp.square(self._error_KN)
    return -0.5 * (
      self._square_KN * self._precision_K[:, None]
      + (self._log_variance_K + LOG_TWO_PI)[:, None]
    )

  def scores(self, share_KN: jax.Array) -> list[jax.Array]:
    """Derivatives by parameters [K * P, N] and by log variances [K, N]."""
    weighted_KN = share_KN * self._precision_K[:, None]
    by_eta_KPN = (weighted_KN * self._error_KN)[:, None] * self._slope_KPN
    return [
      by_eta_KPN.reshape(-1, share_KN.shape[1]),
      0.5 * (weighted_KN * self._square_KN - share_KN),
    ]

  def sums(self, share_KN: jax.Array, weight_N: jax.Array) -> Experts:
    """The sums of these samples."""
    weighted_KPN = share_KN[:, None] * self._slope_KPN
    product_KPPN = weighted_KPN[:, :, None] * self._slope_KPN[:, None]
    return Experts(
      mass_K=share_KN @ weight_N,
      square_K=(share_KN * self._square_KN) @ weight_N,
      information_KPP=product_KPPN @ weight_N,
    )


@flax.struct.dataclass
class Iteration:
  """What an iteration makes of the present parameters, all flat.

  Attributes:
    plain_V: the next parameters by EM.
    curvature_V: the diagonal of the complete data's information: how much a
      change of each parameter counts.
  """

  plain_V: Any
  curvature_V: Any


def improved(
  params: Params,
  sums: Sums,
  least_variance: float,
  largest_gate: float,
) -> Iteration:
  """The M step of the sums of all samples: see the head of the file.

  Args:
    params: the present parameters, of which the sums are.
    sums: of all samples.
    least_variance: lower bound of all variances.
    largest_gate: bound on the absolute weights of the gate.
  """
  rebuild = jax.flatten_util.ravel_pytree(params)[1]
  gradient = rebuild(sums.gradient_V)
  flat_G, rebuild_gate = jax.flatten_util.ravel_pytree(params.gate)
  slope_G, _ = jax.flatten_util.ravel_pytree(gradient.gate)
  moved_G = flat_G + solve(sums.gate_GG, slope_G)
  (eta_EP, log_variance_E), curvature = _improved_experts(
    (params.routed_EP, params.log_variance_E),
    gradient.routed_EP,
    sums.routed,
    least_variance,
  )
  plain = {
    'gate': rebuild_gate(jnp.clip(moved_G, -largest_gate, largest_gate)),
    'routed_EP': eta_EP,
    'log_variance_E': log_variance_E,
  }
  curvatures = {
    'gate': rebuild_gate(jnp.diagonal(sums.gate_GG)),
    'routed_EP': curvature[0],
    'log_variance_E': curvature[1],
  }
  if sums.shared is not None:
    (eta_SQ, log_variance_S), curvature = _improved_experts(
      (params.shared_SQ, params.shared_log_variance_S),
      gradient.shared_SQ,
      sums.shared,
      least_variance,
    )
    mass_S = jnp.maximum(sums.shared.mass_K, LEAST_MASS)
    # Softmax ignores a common term of logits, which is kept.
    common = jax.nn.logsumexp(params.shared_logit_S) - jnp.log(mass_S.sum())
    plain |= {
      'shared_SQ': eta_SQ,
      'shared_log_variance_S': log_variance_S,
      'shared_logit_S': common + jnp.log(mass_S),
    }
    curvatures |= {
      'shared_SQ': curvature[0],
      'shared_log_variance_S': curvature[1],
      'shared_logit_S': mass_S,
    }
  as_flat = lambda parts: flat(dataclasses.replace(params, **parts))
  return Iteration(as_flat(plain), as_flat(curvatures))


def _improved_experts(
  now: tuple[jax.Array, jax.Array],
  gradient_KP: jax.Array,
  sums: Experts,
  least_variance: float,
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
  """Steps 3 and 4: parameters and log variances, and the curvature of both."""
  eta_KP, log_variance_K = now
  precision_K = jnp.exp(-log_variance_K)
  slope_KP = gradient_KP / precision_K[:, None]
  move_KP = jax.vmap(solve)(sums.information_KPP, slope_KP)
  gain_K = jnp.einsum('kp,kp->k', move_KP, slope_KP)
  rest_K = jnp.einsum('kp,kpq,kq->k', move_KP, sums.information_KPP, move_KP)
  square_K = sums.square_K - 2 * gain_K + rest_K
  # An atom without a share keeps its variance, so that nothing is 0 / 0.
  variance_K = jnp.where(
    sums.mass_K > LEAST_MASS,
    square_K / jnp.maximum(sums.mass_K, LEAST_MASS),
    1 / precision_K,
  )
  diagonal_KP = jnp.diagonal(sums.information_KPP, axis1=1, axis2=2)
  return (
    (
      eta_KP + move_KP,
      jnp.log(jnp.maximum(variance_K, least_variance)),
    ),
    (precision_K[:, None] * diagonal_KP, 0.5 * sums.mass_K),
  )


def scored(
  sums: Sums, curvature_V: jax.Array, free_V: jax.Array, damping: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Newton's step with the information that the scores estimate.

  It is damped as by Levenberg and Marquardt, in the units of EM: with a large
  damping it is a short step in EM's own direction.

  Args:
    sums: of all samples.
    curvature_V: see `Iteration`.
    free_V: whether a parameter may move; False at a bound that the gradient
      points out of.
    damping: above 0.

  Returns:
    The step [V], and the gain of the mean log likelihood that it promises.
  """
  gradient_V = jnp.where(free_V, sums.gradient_V, 0.0)
  both_VV = free_V & free_V[:, None]
  scores_VV = jnp.where(both_VV, sums.scores_VV, 0.0)
  # A parameter that the likelihood does not feel has no curvature.
  units_V = curvature_V + RIDGE * jnp.max(curvature_V) + LEAST_MASS
  step_V = jnp.linalg.solve(scores_VV + jnp.diag(damping * units_V), gradient_V)
  promised = step_V @ gradient_V - 0.5 * step_V @ scores_VV @ step_V
  return step_V, promised


def solve(matrix_PP: jax.Array, vector_P: jax.Array) -> jax.Array:
  """The solution of a positive semi-definite system, with a small ridge."""
  size = matrix_PP.shape[0]
  ridge = RIDGE * jnp.trace(matrix_PP) / size + LEAST_MASS
  return jnp.linalg.solve(matrix_PP + ridge * jnp.eye(size), vector_P)
