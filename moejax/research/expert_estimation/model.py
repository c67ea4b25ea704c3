"""Model: a mixture of experts, composed of a gate and kinds of experts."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import errors
from moejax.research.expert_estimation.experts import Expert
from moejax.research.expert_estimation.gates import Gate

LOG_TWO_PI = float(np.log(2 * np.pi))
# The shared part and the routed part of a density have half of its mass each.
LOG_HALF = float(np.log(0.5))


@flax.struct.dataclass
class Params:
  """The parameters of a model; float64 in all that the lab computes.

  E routed experts of P parameters, S shared ones of Q.

  Attributes:
    gate: weights of the gate by name, see `Gate.shapes`.
    routed_EP: eta of each routed expert.
    log_variance_E: log nu.
    shared_SQ: kappa of each shared expert; [0, 0] without any.
    shared_log_variance_S: log tau.
    shared_logit_S: logits of omega.
  """

  gate: dict[str, Any]
  routed_EP: Any
  log_variance_E: Any
  shared_SQ: Any
  shared_log_variance_S: Any
  shared_logit_S: Any


@dataclasses.dataclass(frozen=True)
class Model:
  """A Gaussian mixture of experts, arXiv 2505.10860, equations 1 and 2.

    p(y | x) = 1/2 sum_i omega_i N(y | h1(x, kappa_i), tau_i)
             + 1/2 sum_i gate_i(x) N(y | h2(x, eta_i), nu_i)

  Without shared experts the routed part is the whole density. As a regression
  (arXiv 2402.02952, 2503.03213), the model is the mean of this density, and the
  variances are no parameters.

  Attributes:
    gate: the gate of the routed experts.
    routed: their kind, h2.
    num_routed: E.
    shared: the kind of shared experts, h1; None without any.
    num_shared: S.
    width: D, the length of an input.
    regression: whether the model is a mean, and not a density.
  """

  gate: Gate
  routed: Expert
  num_routed: int
  shared: Expert | None = None
  num_shared: int = 0
  width: int = 1
  regression: bool = False

  def __post_init__(self):
    if self.num_routed < 1:
      raise errors.InputError(
        f'num_routed={self.num_routed}: a model needs a routed expert'
      )
    if (self.shared is None) != (self.num_shared == 0):
      raise errors.InputError(
        f'num_shared={self.num_shared} does not fit shared={self.shared}; give '
        'both or neither'
      )
    self.gate.check(self.num_routed)

  @property
  def num_params(self) -> int:
    """Free parameters, of which an estimator finds the values."""
    gate = self.gate.shapes(self.num_routed, self.width).values()
    num = sum(int(np.prod(shape)) for shape in gate)
    num += self.num_routed * self.routed.size(self.width)
    if not self.regression:
      num += self.num_routed + 2 * self.num_shared
    if self.shared is not None:
      num += self.num_shared * self.shared.size(self.width)
    return num

  def zeros(self) -> Params:
    """Parameters of this form, all zero, float64."""
    num, num_shared = self.num_routed, self.num_shared
    size = 0 if self.shared is None else self.shared.size(self.width)
    shapes = self.gate.shapes(num, self.width)
    return Params(
      gate={name: np.zeros(shape) for name, shape in shapes.items()},
      routed_EP=np.zeros((num, self.routed.size(self.width))),
      log_variance_E=np.zeros(num),
      shared_SQ=np.zeros((num_shared, size)),
      shared_log_variance_S=np.zeros(num_shared),
      shared_logit_S=np.zeros(num_shared),
    )

  def log_gates(self, params: Params, x_ND: jax.Array) -> jax.Array:
    """Logarithms of the routed experts' gates, [N, E]."""
    return self.gate(params.gate, x_ND)

  def log_shares(self, params: Params) -> jax.Array:
    """The logarithms of omega, [S]."""
    return jax.nn.log_softmax(params.shared_logit_S)

  def routed_means(self, params: Params, x_ND: jax.Array) -> jax.Array:
    """h2 of each routed expert, [N, E]."""
    return means(self.routed, params.routed_EP, x_ND)

  def shared_means(self, params: Params, x_ND: jax.Array) -> jax.Array:
    """h1 of each shared expert, [N, S]."""
    if self.shared is None:
      return jnp.zeros((x_ND.shape[0], 0), x_ND.dtype)
    return means(self.shared, params.shared_SQ, x_ND)

  def log_parts(
    self, params: Params, x_ND: jax.Array, y_N: jax.Array
  ) -> jax.Array:
    """Logarithms of the density's summands, shared ones first, [N, S + E]."""
    routed_NE = self.log_gates(params, x_ND) + log_normal(
      y_N, self.routed_means(params, x_ND), params.log_variance_E
    )
    if self.shared is None:
      return routed_NE
    shared_NS = self.log_shares(params) + log_normal(
      y_N, self.shared_means(params, x_ND), params.shared_log_variance_S
    )
    return LOG_HALF + jnp.concatenate([shared_NS, routed_NE], axis=1)

  def log_density(
    self, params: Params, x_ND: jax.Array, y_N: jax.Array
  ) -> jax.Array:
    """The logarithm of p(y | x) of each sample, [N]."""
    return jax.scipy.special.logsumexp(
      self.log_parts(params, x_ND, y_N), axis=1
    )

  def mean(self, params: Params, x_ND: jax.Array) -> jax.Array:
    """E[y | x], the regression function, [N]."""
    gate_NE = jnp.exp(self.log_gates(params, x_ND))
    routed_N = jnp.sum(gate_NE * self.routed_means(params, x_ND), axis=1)
    if self.shared is None:
      return routed_N
    shared_N = self.shared_means(params, x_ND) @ jnp.exp(
      self.log_shares(params)
    )
    return 0.5 * (shared_N + routed_N)


def means(expert: Expert, eta_KP: jax.Array, x_ND: jax.Array) -> jax.Array:
  """The means h of K experts of one kind, [N, K]."""
  return jax.vmap(expert, (0, None), 1)(eta_KP, x_ND)


def log_normal(
  y_N: jax.Array, mean_NK: jax.Array, log_variance_K: jax.Array
) -> jax.Array:
  """The logarithm of N(y | mean, variance), [N, K]."""
  square_NK = jnp.square(y_N[:, None] - mean_NK) * jnp.exp(-log_variance_K)
  return -0.5 * (square_NK + log_variance_K + LOG_TWO_PI)


def double() -> Any:
  """A context in which JAX computes in float64.

  The slow rates ask for it: with 1e5 samples an error of n ** -1/2 in the loss
  is below float32's rounding of the log likelihood.
  """
  return jax.enable_x64(True)
