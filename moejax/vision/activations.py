"""ACTIVATIONS: the function between the matrices of a feed-forward, by name."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from moejax.core import special


def quick_gelu(x: jax.Array) -> jax.Array:
  """X sigmoid(1.702 x): the approximation of GELU in OpenAI's CLIP weights."""
  return x * jax.nn.sigmoid(1.702 * x)


def gelu_tanh(x: jax.Array) -> jax.Array:
  """GELU by the hyperbolic tangent (arXiv 1606.08415, section 2)."""
  root = math.sqrt(2 / math.pi)
  return 0.5 * x * (1 + jnp.tanh(root * (x + 0.044715 * x**3)))


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'gelu': special.gelu,
  'gelu_tanh': gelu_tanh,
  'quick_gelu': quick_gelu,
}
