"""The dense feed-forward: one expert that every token passes."""

import jax
from flax import nnx

from moejax.model.config import ModelConfig
from moejax.moe import experts


class Dense(nnx.Module):
  """SwiGLU (arXiv 2002.05202)."""

  def __init__(self, config: ModelConfig, key: jax.Array):
    self.expert = experts.SwiGLU()
    self.w = nnx.Dict(
      self.expert.init(
        key, 1, config.width, config.dense_width, config.init_std
      )
    )

  def __call__(self, x_BLD: jax.Array) -> jax.Array:
    """Every token through the same two layers."""
    w = {name: p[...].astype(x_BLD.dtype) for name, p in self.w.items()}
    x_TD = x_BLD.reshape(-1, x_BLD.shape[-1])
    return self.expert.dense(w, x_TD).reshape(x_BLD.shape)
