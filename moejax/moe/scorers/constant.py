"""Scores that are learned numbers, the same for every token."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from moejax.core import fields
from moejax.moe.scorers import base


@dataclasses.dataclass(frozen=True)
class Constant(base.Scorer):
  """logit_i = c_i, for every token.

  For DSelect-k's static variant (arXiv 2106.03760, section 3), in which a
  layer has one choice of experts for all its inputs.

  Attributes:
    edge: c starts uniformly between -edge and edge; 0.01 is the released
      code's for DSelect-k's default gamma of 1.
  """

  edge: float = fields.number(0.01, at_least=0, at_most=100)

  def init(
    self, key: jax.Array, width: int, num: int, std: float
  ) -> dict[str, nnx.Param]:
    del width, std
    c_E = jax.random.uniform(key, (num,), jnp.float32, -self.edge, self.edge)
    return {'c_E': nnx.Param(c_E, axes=('unsharded',), decays=False)}

  def __call__(
    self, w: dict[str, jax.Array], inputs: base.ScorerInput
  ) -> jax.Array:
    c_E = w['c_E']
    return jnp.broadcast_to(c_E, (inputs.x_TD.shape[0], c_E.shape[0]))
