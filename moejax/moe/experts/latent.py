"""LatentMoE: routed experts work in fewer dimensions than the model.

    z = x W_down    D -> Z, one matrix for all experts of a layer
    y = sum over the chosen experts of gate * expert(z)
    out = y W_up    Z -> D

LatentMoE (arXiv 2601.18089, section 2; Nemotron 3 Super and Ultra) leaves the
router and the shared experts at the model's width. The rows that travel to
experts and back, and the weights of an expert, are D / Z times smaller. In
exchange the paper multiplies the number of experts, and the number that a token
uses, by D / Z; the hidden width stays. There is neither a bias nor a norm.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from moejax.core import linear


def init(
  key: jax.Array, width: int, latent: int, std: float
) -> dict[str, nnx.Param]:
  """Weights by name, float32, normal with deviation `std`.

  Args:
    key: random key.
    width: D.
    latent: Z; 0: experts work at the model's width, and there are no weights.
    std: of the matrices at the start.
  """
  if not latent:
    return {}
  keys = jax.random.split(key)
  w_DZ = std * jax.random.normal(keys[0], (width, latent), jnp.float32)
  w_ZD = std * jax.random.normal(keys[1], (latent, width), jnp.float32)
  return {
    'w_down_DZ': nnx.Param(w_DZ, axes=('embed', 'unsharded'), decays=True),
    'w_up_ZD': nnx.Param(w_ZD, axes=('unsharded', 'embed'), decays=True),
  }


def down(
  w: dict[str, jax.Array], x_TD: jax.Array, product: linear.Linear
) -> jax.Array:
  """The input of the experts, [T, Z]; x_TD itself without weights."""
  return product(x_TD, w['w_down_DZ']) if w else x_TD


def up(
  w: dict[str, jax.Array], y_TZ: jax.Array, product: linear.Linear
) -> jax.Array:
  """The experts' weighted sum at the model's width, [T, D]."""
  return product(y_TZ, w['w_up_ZD']) if w else y_TZ
