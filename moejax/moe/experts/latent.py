"""LatentMoE: routed experts work in fewer dimensions than the model.

    z = x W_down    D -> Z, one matrix for all experts of a layer
    y = sum over the chosen experts of gate * expert(z)
    out = y W_up    Z -> D

LatentMoE (arXiv 2601.18089, section 2; Nemotron 3 Super and Ultra) leaves the
router and the shared experts at the model's width. What travels to experts and
back, and an expert's weights, are D / Z times smaller; the paper has that many
times the experts for it, of which a token uses that many times more, each of
the same hidden width. There is neither a bias nor a norm.
"""

import jax
import jax.numpy as jnp
from flax import nnx


def init(
  key: jax.Array, width: int, latent: int, std: float
) -> dict[str, nnx.Param]:
  """Weights by name, float32, normal with deviation `std`.

  Args:
    key: random key.
    width: D.
    latent: Z; 0: experts work at the model's width, and there are none.
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


def down(w: dict[str, jax.Array], x_TD: jax.Array) -> jax.Array:
  """What the experts see of the tokens: [T, Z]."""
  return x_TD @ w['w_down_DZ'] if w else x_TD


def up(w: dict[str, jax.Array], y_TZ: jax.Array) -> jax.Array:
  """The experts' sum at the model's width: [T, D]."""
  return y_TZ @ w['w_up_ZD'] if w else y_TZ
