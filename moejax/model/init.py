"""Matrices as a model starts with them."""

import jax
from flax import nnx

from moejax.model.config import ModelConfig


def normal(
  config: ModelConfig,
  key: jax.Array,
  shape: tuple[int, ...],
  axes: tuple[str, ...],
) -> nnx.Param:
  """A float32 matrix, drawn with `config.init_std`, that decays.

  Args:
    config: of the model.
    key: random key.
    shape: of the matrix.
    axes: the name of each dimension, for `parallel.rules`.
  """
  return nnx.Param(
    config.init_std * jax.random.normal(key, shape), axes=axes, decays=True
  )
