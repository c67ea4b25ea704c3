"""ACTIVATIONS: the function between the matrices of a feed-forward, by name."""

from collections.abc import Callable

import jax


def quick_gelu(x: jax.Array) -> jax.Array:
  """X sigmoid(1.702 x): the approximation of GELU in OpenAI's CLIP weights."""
  return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: jax.Array) -> jax.Array:
  """GELU by the error function (arXiv 1606.08415)."""
  return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: jax.Array) -> jax.Array:
  """GELU by the hyperbolic tangent (arXiv 1606.08415, section 2)."""
  return jax.nn.gelu(x, approximate=True)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'gelu': gelu,
  'gelu_tanh': gelu_tanh,
  'quick_gelu': quick_gelu,
}
