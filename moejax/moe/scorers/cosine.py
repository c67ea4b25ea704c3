"""Scores by angle: X-MoE's cosine, and the perturbed cosine."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from moejax.core import fields
from moejax.moe.scorers import base, linear, starts

# The smallest norm that is divided by, so that a zero vector has a gradient.
LEAST_NORM = 1e-4


@dataclasses.dataclass(frozen=True)
class Cosine(base.Scorer):
  """logit_i = cos(W x, e_i) / tau in few dimensions: X-MoE's router.

  X-MoE (arXiv 2204.09179, section 3): W projects to E / 2 dimensions, token
  and expert embeddings are normalised, and tau is a learned scalar, of which
  the logarithm is stored so that it stays positive. The division is done here:
  the router's score function (softmax, or sigmoid) then follows once.

  The balance loss (section 3) takes for P the softmax at a fixed tau0, so that
  the learned tau cannot lower it: 0.3 where the router's score is the softmax,
  0.07 where it is the sigmoid. The paper does not state at which value tau
  starts; here it is tau0.

  Released variants, as settings, all with balance_tau=0:
    torchscale    normalises_tokens off, learns_tau off, tau=1: its code
                  normalises only the experts and applies no temperature
    tutel         width=256, tau=0.5 (it also keeps 1 / tau below 100, and its
                  projection has a bias: neither is here)
    LibMoE        learns_tau off, row_norm=1.5, in_place, with
                  router.score=double_softmax and router.renormalise

  Attributes:
    width: dimensions in which angles are taken; 0 means half the number of
      experts.
    tau: temperature at the start.
    learns_tau: whether it is learned.
    row_norm: the norm that the experts' embeddings are normalised to.
    in_place: whether the stored embeddings are set to that norm, at the start
      and after every step, with no gradient through the normalisation. If not,
      they may have any norm and are normalised where they are used, so that
      their gradient is orthogonal to them.
    normalises_tokens: whether tokens are normalised too.
    balance_tau: tau0, for balance losses alone; 0 leaves them the router's own
      probabilities.
  """

  width: int = fields.number(0, at_least=0, note='0: half the experts')
  tau: float = fields.number(0.3, above=0, at_most=100)
  learns_tau: bool = True
  row_norm: float = fields.number(1.0, above=0, at_most=100)
  in_place: bool = False
  normalises_tokens: bool = True
  balance_tau: float = fields.number(
    0.3, at_least=0, at_most=100, note='0: as routed'
  )

  def init(
    self, key: jax.Array, width: int, num: int, std: float
  ) -> dict[str, nnx.Param]:
    del std  # angles do not depend on it
    inner = self.with_fixed_sizes(num).width
    keys = jax.random.split(key)
    # As released: the projection starts as a linear layer of PyTorch does, the
    # embeddings are orthogonal, of norm 0.32.
    orthogonal = jax.nn.initializers.orthogonal(0.32)
    weights = {
      'w_DZ': uniform_by_fan_in(keys[0], (width, inner), width),
      'w_EZ': orthogonal(keys[1], (num, inner), jnp.float32),
    }
    params = {
      k: nnx.Param(w, axes=linear.AXES, decays=True)
      for k, w in self.after_step(weights).items()
    }
    if self.learns_tau:
      log_tau = jnp.asarray(math.log(self.tau), jnp.float32)
      params['log_tau'] = nnx.Param(log_tau, axes=(), decays=False)
    return params

  def __call__(
    self, w: dict[str, jax.Array], inputs: base.ScorerInput
  ) -> jax.Array:
    x_TZ = linear.product(inputs.x_TD, w['w_DZ'])
    if self.normalises_tokens:
      x_TZ = x_TZ / norm(x_TZ)
    return linear.product(x_TZ, self._rows(w['w_EZ']).T) / self._tau(w)

  def after_step(self, w: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {**w, 'w_EZ': self._rows(w['w_EZ'])} if self.in_place else w

  def with_fixed_sizes(self, num: int) -> 'Cosine':
    return dataclasses.replace(self, width=self.width or max(1, num // 2))

  def _rows(self, w_EZ: jax.Array) -> jax.Array:
    """The experts' embeddings, scaled to `row_norm`."""
    norm_E1 = norm(w_EZ)
    if self.in_place:
      norm_E1 = jax.lax.stop_gradient(norm_E1)
    return self.row_norm * w_EZ / norm_E1

  def balance_logits(
    self, w: dict[str, jax.Array], logits_TE: jax.Array
  ) -> jax.Array | None:
    if not self.balance_tau:
      return None
    return logits_TE * (self._tau(w) / self.balance_tau)

  def _tau(self, w: dict[str, jax.Array]) -> jax.Array | float:
    return jnp.exp(w['log_tau']) if self.learns_tau else self.tau


@dataclasses.dataclass(frozen=True)
class PerturbedCosine(base.Scorer):
  """logit_i = x . w_i / ((|w_i| + tau1) (|x| + tau2)) + b_i.

  The perturbed cosine router (arXiv 2405.14131): positive constants
  added to both norms make the estimation of experts identifiable where the
  plain cosine's is logarithmically slow. There is no temperature, so logits lie
  between -1 and 1.

  LibMoE takes 0.1 for both constants and width E / 2. It weighs by a second
  softmax, over the kept probabilities: `router.score=double_softmax` with
  `router.renormalise`. Its temperature of 0.3, and the norm of 1.5 to which it
  draws the experts' embeddings in every forward pass, are not here.

  The code of one experiment takes 1e-4 after a projection to 256 dimensions. It
  normalises across experts, where this scorer normalises each expert's vector.

  Attributes:
    tau1: added to the experts' norms.
    tau2: added to the tokens' norms.
    width: dimensions to project to; 0 means no projection.
    bias: whether there is a learned b, which starts at zero.
  """

  tau1: float = fields.number(0.1, above=0, at_most=100)
  tau2: float = fields.number(0.1, above=0, at_most=100)
  width: int = fields.number(0, at_least=0, note='0: no projection')
  bias: bool = False

  def init(
    self, key: jax.Array, width: int, num: int, std: float
  ) -> dict[str, nnx.Param]:
    keys = jax.random.split(key)
    inner = self.width or width
    w_EZ = starts.model(keys[0], inner, num, std).T
    weights = {'w_EZ': nnx.Param(w_EZ, axes=linear.AXES, decays=True)}
    if self.width:
      w_DZ = uniform_by_fan_in(keys[1], (width, inner), width)
      weights['w_DZ'] = nnx.Param(w_DZ, axes=linear.AXES, decays=True)
    if self.bias:
      b_E = jnp.zeros(num, jnp.float32)
      weights['b_E'] = nnx.Param(b_E, axes=linear.AXES[1:], decays=False)
    return weights

  def __call__(
    self, w: dict[str, jax.Array], inputs: base.ScorerInput
  ) -> jax.Array:
    x_TZ = linear.product(inputs.x_TD, w['w_DZ']) if self.width else inputs.x_TD
    x_TZ = x_TZ / (norm(x_TZ, 0.0) + self.tau2)
    w_EZ = w['w_EZ'] / (norm(w['w_EZ'], 0.0) + self.tau1)
    logits_TE = linear.product(x_TZ, w_EZ.T)
    return logits_TE + w['b_E'] if self.bias else logits_TE


def norm(x_NZ: jax.Array, least: float = LEAST_NORM) -> jax.Array:
  """Euclidean norms [N, 1], at least `least`; the gradient at zero is zero."""
  square_N1 = jnp.sum(jnp.square(x_NZ), axis=-1, keepdims=True)
  large_N1 = square_N1 > least**2
  root_N1 = jnp.sqrt(jnp.where(large_N1, square_N1, 1.0))
  return jnp.where(large_N1, root_N1, least)


def uniform_by_fan_in(
  key: jax.Array, shape: tuple[int, ...], fan_in: int
) -> jax.Array:
  """Uniform in +-1 / sqrt(fan_in): the start of PyTorch's linear layer."""
  edge = 1 / math.sqrt(fan_in)
  return jax.random.uniform(key, shape, jnp.float32, -edge, edge)
