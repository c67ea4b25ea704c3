"""Scores from the token's id alone, through an embedding of its own."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from moejax.core import fields
from moejax.moe.scorers import base, linear


@dataclasses.dataclass(frozen=True)
class TokenEmbedding(base.Scorer):
  """logit_i = v(id) . e_i: a small word embedding and centroids of its own.

  StableMoE's light router (arXiv 2204.08396, section 3.1, and its code): 50
  dimensions, centroids orthogonal of norm 0.1. The token vector is not used, so
  a choice by these scores is a function of the id alone.

  An id of `vocab_size` or more shares the last id's embedding.

  Attributes:
    vocab_size: number of embeddings.
    dim: width of the embedding.
  """

  vocab_size: int = fields.number(32768, at_least=1)
  dim: int = fields.number(50, at_least=1)

  @property
  def reads_token_ids(self) -> bool:
    return True

  def init(
    self, key: jax.Array, width: int, num: int, std: float
  ) -> dict[str, nnx.Param]:
    del width, std
    keys = jax.random.split(key)
    v_VZ = jax.random.normal(keys[0], (self.vocab_size, self.dim), jnp.float32)
    orthogonal = jax.nn.initializers.orthogonal(0.1)
    return {
      'v_VZ': nnx.Param(v_VZ, axes=linear.AXES, decays=True),
      'w_EZ': nnx.Param(
        orthogonal(keys[1], (num, self.dim), jnp.float32),
        axes=linear.AXES,
        decays=True,
      ),
    }

  def __call__(
    self, w: dict[str, jax.Array], inputs: base.ScorerInput
  ) -> jax.Array:
    token_T = jnp.clip(inputs.token_T, 0, self.vocab_size - 1)
    return linear.product(w['v_VZ'][token_T], w['w_EZ'].T)
