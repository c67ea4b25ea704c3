"""ACTIVATIONS: the function between the matrices of a feed-forward, by name."""

from collections.abc import Callable

import jax

from moejax.core import special

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'gelu': special.gelu,
  'gelu_tanh': special.gelu_tanh,
  'quick_gelu': special.quick_gelu,
}
