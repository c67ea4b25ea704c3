"""The dot product of a token with each expert's centroid."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from moejax.core import fields
from moejax.moe.scorers import base, starts

# Routing is split over devices by tokens, so every device needs all centroids.
AXES = ('unsharded', 'unsharded')


@dataclasses.dataclass(frozen=True)
class Linear(base.Scorer):
  """logit_i = u . e_i + b_i, with e_i the centroid of expert i.

  DeepSeekMoE (arXiv 2401.06066, equation 11) and most other models.

  Attributes:
    bias: whether there is a learned b, which starts at zero (gpt-oss). Unlike
      the selection biases of `balance`, it is part of the logit, so weights of
      experts depend on it.
    start: initial values of the centroids, see `scorers.starts`.
    std: standard deviation of the starts `model` and `equal_norm`; 0 means that
      of the model's matrices.
  """

  bias: bool = False
  start: str = fields.named(starts.STARTS, 'model')
  std: float = fields.number(
    0.0, at_least=0, at_most=100, note='0: that of the model'
  )

  def init(
    self, key: jax.Array, width: int, num: int, std: float
  ) -> dict[str, nnx.Param]:
    w_DE = starts.STARTS[self.start](key, width, num, self.std or std)
    weights = {'w_DE': nnx.Param(w_DE, axes=AXES, decays=True)}
    if self.bias:
      b_E = jnp.zeros(num, jnp.float32)
      weights['b_E'] = nnx.Param(b_E, axes=AXES[1:], decays=False)
    return weights

  def __call__(
    self, w: dict[str, jax.Array], inputs: base.ScorerInput
  ) -> jax.Array:
    logits_TE = product(inputs.x_TD, w['w_DE'])
    return logits_TE + w['b_E'] if self.bias else logits_TE


def product(x_TD: jax.Array, w_DE: jax.Array) -> jax.Array:
  """The matmul in full float32, also on chips that round its inputs."""
  return jnp.dot(x_TD, w_DE, precision=jax.lax.Precision.HIGHEST)
