"""Gated experts."""

import dataclasses

import jax
import jax.numpy as jnp

from moejax.core import fields
from moejax.moe.experts import base


@dataclasses.dataclass(frozen=True)
class SwiGLU(base.TwoLayers):
  """w_out (silu(w_gate x) * (w_up x)) (arXiv 2002.05202)."""

  def join(self, gate_RF: jax.Array, up_RF: jax.Array) -> jax.Array:
    return jax.nn.silu(gate_RF) * up_RF


@dataclasses.dataclass(frozen=True)
class ClampedSwiGLU(base.TwoLayers):
  """SwiGLU whose two halves cannot grow without bound.

    g = min(w_gate x + b_gate, limit)
    u = min(max(w_up x + b_up, -limit), limit)
    h = g * sigmoid(alpha g) * (u + up_offset)

  The defaults are gpt-oss's. DeepSeek-V4 has limit=10, alpha=1, up_offset=0
  and bias=False. Here the columns of gate come first, then those of up;
  gpt-oss's files interleave them.

  Attributes:
    limit: the largest gate, and the largest up by its absolute value.
    alpha: steepness of the gate's sigmoid.
    up_offset: added to the clamped up.
  """

  bias: bool = True
  limit: float = fields.number(7.0, above=0, at_most=10**6)
  alpha: float = fields.number(1.702, above=0, at_most=1000)
  up_offset: float = fields.number(1.0, at_least=-1000, at_most=1000)

  def join(self, gate_RF: jax.Array, up_RF: jax.Array) -> jax.Array:
    gate_RF = jnp.minimum(gate_RF, self.limit)
    up_RF = jnp.clip(up_RF, -self.limit, self.limit)
    gate_RF = gate_RF * jax.nn.sigmoid(self.alpha * gate_RF)
    return gate_RF * (up_RF + self.up_offset)
