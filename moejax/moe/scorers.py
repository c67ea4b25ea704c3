"""Token vectors to logits; owns the router's weights."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx


@dataclasses.dataclass(frozen=True)
class Linear:
  """logit_i = u . e_i, with e_i the centroid of expert i.

  DeepSeekMoE (arXiv 2401.06066, equation 11), and nearly everyone.
  """

  def init(
    self, key: jax.Array, width: int, num_experts: int, std: float
  ) -> dict[str, nnx.Param]:
    """Weights by name, float32."""
    w_DE = std * jax.random.normal(key, (width, num_experts), jnp.float32)
    # Routing is split by tokens only; every device needs all centroids.
    return {'w_DE': nnx.Param(w_DE, axes=('unsharded', 'unsharded'))}

  def __call__(self, w: dict[str, jax.Array], x_TD: jax.Array) -> jax.Array:
    """logits_TE in float32, whatever the compute type."""
    return jnp.dot(
      x_TD.astype(jnp.float32),
      w['w_DE'],
      precision=jax.lax.Precision.HIGHEST,
    )


SCORERS = {'linear': Linear}
