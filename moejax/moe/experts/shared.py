"""Experts that every token passes, next to the routed ones."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from moejax.core import fields, linear
from moejax.moe.experts import base


@dataclasses.dataclass(frozen=True)
class SharedExperts(fields.Checked):
  """N shared experts as one of N times the width, which is the same sum.

  DeepSeekMoE (arXiv 2401.06066, section 3.2) adds their output as it is.

  Attributes:
    gate: whether their output is multiplied by sigmoid(x . w), with one vector
      w for all shared experts and no bias (Qwen1.5-MoE, Qwen2-MoE, Qwen3-Next).
    weight: their output is multiplied by it; LibMoE's vision layers
      (arXiv 2411.00918) have 0.5, and a routed scaling factor of 0.5.
    width: hidden width of all shared experts together; 0: their number times
      the width of a routed expert.
  """

  gate: bool = False
  weight: float = fields.number(1.0, above=0, at_most=1000)
  width: int = fields.number(
    0, at_least=0, note='0: num_shared times expert_width'
  )

  def init(
    self,
    key: jax.Array,
    experts: base.Experts,
    sizes: tuple[int, int],
    std: float,
    out: int | None = None,
  ) -> dict[str, nnx.Param]:
    """Weights by name, float32.

    Args:
      key: random key.
      experts: the kind of experts.
      sizes: D, and the hidden width of all shared experts together.
      std: of the matrices at the start.
      out: width of the output; None for D.
    """
    width, hidden = sizes
    weights = experts.init(key, 1, width, hidden, std, out)
    if self.gate:
      # Not `key` itself, which the experts' init splits.
      w_D = jax.random.normal(jax.random.fold_in(key, 1), (width,))
      weights['w_gate_D'] = nnx.Param(
        std * w_D, axes=('unsharded',), decays=True
      )
    return weights

  def __call__(
    self,
    w: dict[str, jax.Array],
    experts: base.Experts,
    x_TD: jax.Array,
    product: linear.Linear = linear.plain,
  ) -> jax.Array:
    """out_TD: every token through all shared experts."""
    out_TD = experts.dense(w, x_TD, product)
    if self.gate:
      # In float32, as scorers are.
      logit_T = jnp.dot(
        x_TD.astype(jnp.float32),
        w['w_gate_D'].astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
      )
      out_TD = out_TD * jax.nn.sigmoid(logit_T)[:, None].astype(out_TD.dtype)
    return out_TD if self.weight == 1 else out_TD * self.weight

  def in_layer(self, out_BLD: jax.Array, layer: jax.Array | int) -> jax.Array:
    """The output as a layer adds it: as it is, unless a subclass changes it.

    Args:
      out_BLD: output of the shared experts.
      layer: number of the layer among those with experts, from 0.
    """
    del layer
    return out_BLD
