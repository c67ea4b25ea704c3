"""Experts without a gate."""

import dataclasses
from typing import ClassVar

import jax

from moejax.core import fields, special
from moejax.moe.experts import base

ACTIVATIONS = {
  'gelu': special.gelu,
  'gelu_tanh': special.gelu_tanh,
  'quick_gelu': special.quick_gelu,
  'relu': jax.nn.relu,
}


@dataclasses.dataclass(frozen=True)
class TwoMatrix(base.TwoLayers):
  """w_out act(w_in x): the feed-forward of most MoE papers before 2023.

  GShard, Switch and sigma-MoE have ReLU. gelu is the exact one, by erf;
  SigLIP has gelu_tanh, CLIP quick_gelu.

  Attributes:
    activation: the function between the matrices, one of ACTIVATIONS.
  """

  gated: ClassVar[bool] = False

  activation: str = fields.named(ACTIVATIONS, 'relu')

  def activate(self, h_RG: jax.Array) -> jax.Array:
    return ACTIVATIONS[self.activation](h_RG)
