"""Scores by distance: the Laplace and the Gaussian gate."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from moejax.core import fields
from moejax.moe.scorers import base, linear, starts


@dataclasses.dataclass(frozen=True)
class Laplace(base.Scorer):
  """logit_i = -|x - w_i| + b_i: the Laplace gate.

  FuseMoE (arXiv 2402.03226, equation 4); used at either level by HMoE (arXiv
  2410.02935). The norm is not squared; with the squared norm it is the Gaussian
  gate, to which HMoE compares it. The published router is top k with the
  softmax over the kept distances (`router.renormalise`).

  Where we differ: the released code starts all w at zero, so that all experts
  tie at first (as with `start=zeros`), and has no b; the paper's theory has b.

  Distances come from |x|^2 - 2 x w + |w|^2, a matmul, and are accurate to about
  5e-4 of |x| where a token is very near to an expert.

  Attributes:
    squared: whether the distance is squared: the Gaussian gate.
    bias: whether there is a learned b, which starts at zero.
    start: initial values of w, see `scorers.starts`.
  """

  squared: bool = False
  bias: bool = False
  start: str = fields.named(starts.STARTS, 'model')

  def init(
    self, key: jax.Array, width: int, num: int, std: float
  ) -> dict[str, nnx.Param]:
    w_DE = starts.STARTS[self.start](key, width, num, std)
    weights = {'w_DE': nnx.Param(w_DE, axes=linear.AXES, decays=True)}
    if self.bias:
      b_E = jnp.zeros(num, jnp.float32)
      weights['b_E'] = nnx.Param(b_E, axes=linear.AXES[1:], decays=False)
    return weights

  def __call__(
    self, w: dict[str, jax.Array], inputs: base.ScorerInput
  ) -> jax.Array:
    x_TD, w_DE = inputs.x_TD, w['w_DE']
    length_T1 = jnp.sum(jnp.square(x_TD), axis=1, keepdims=True)
    length_E = jnp.sum(jnp.square(w_DE), axis=0)
    square_TE = length_T1 - 2 * linear.product(x_TD, w_DE) + length_E
    apart_TE = square_TE > 0  # rounding may take it below
    if self.squared:
      distance_TE = jnp.where(apart_TE, square_TE, 0.0)
    else:
      # The gradient of a norm at zero is taken to be zero.
      root_TE = jnp.sqrt(jnp.where(apart_TE, square_TE, 1.0))
      distance_TE = jnp.where(apart_TE, root_TE, 0.0)
    return w['b_E'] - distance_TE if self.bias else -distance_TE
