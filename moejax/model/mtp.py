"""Multi-token prediction (DeepSeek-V3, arXiv 2412.19437, section 2.2).

Module k = 1, 2, ... reads one token more than the module before it, module 0
being the model, and predicts the token after that:

  h'_i = [norm(Emb(t_{i+k})); norm(h_i of module k-1)] M_k          (21)
  h_i  = norm(Block_k(h')_i)                                        (22)
  t_{i+k+1} from the model's own head on h_i                        (23)

Embedding and head are the model's. The paper leaves open the order of the
halves of M and the place of the norms. They are those of the released weights
and of transformers' `MtpLayer`: the embedding's half of M comes first, h of the
model is taken after its last norm, and every module has a last norm of its own,
whose output the next module reads.

Block k is a layer like the model's last one, stored after the model's layers in
their stack. This file has the rest of a module.

Example, a row of two documents, a b c $ and d $, which the model reads as
0 a b c 0 d. For module 1 (- is padding):

  segment  1 1 1 1 2 2
  target   a b c $ d $    t_{i+1}, predicted by the model
  input    a b c - d -    t_{i+1}, read by the module beside h_i
  target   b c $ - $ -    t_{i+2}, predicted by the module
"""

import jax
import jax.numpy as jnp
from flax import nnx

from moejax.core import linear
from moejax.model import init, norm
from moejax.model.config import ModelConfig


class Joint(nnx.Module):
  """Equation 21 of one module, and the module's last norm."""

  def __init__(self, config: ModelConfig, key: jax.Array):
    width = config.width
    self.norm_embed = norm.RMSNorm(width, config.norm_eps)
    self.norm_hidden = norm.RMSNorm(width, config.norm_eps)
    self.norm = norm.RMSNorm(width, config.norm_eps)
    # [0] multiplies the embedding, [1] the hidden state.
    self.w_2CD = init.normal(
      config, key, (2, width, width), ('unsharded', 'embed', 'unsharded')
    )

  def __call__(
    self, embed_BLD: jax.Array, x_BLD: jax.Array, product: linear.Linear
  ) -> jax.Array:
    """The input of the module's block, x_BLD, by equation 21.

    Args:
      embed_BLD: embeddings of the tokens that the module reads.
      x_BLD: hidden states of the module before, in the compute type.
      product: of activations and weights.
    """
    w_2CD = self.w_2CD[...].astype(x_BLD.dtype)
    embed_BLD = product(self.norm_embed(embed_BLD), w_2CD[0])
    return embed_BLD + product(self.norm_hidden(x_BLD), w_2CD[1])


def stack(config: ModelConfig, key: jax.Array) -> Joint:
  """The `Joint`s of all modules as one; the weights' first axis is modules."""
  make = nnx.vmap(lambda key: Joint(config, key))
  return make(jax.random.split(key, config.mtp_layers))


def at(stacked: Joint, index: int) -> Joint:
  """The `Joint` of one module of a stack."""
  graph, weights = nnx.split(stacked)
  return nnx.merge(graph, jax.tree.map(lambda x: x[index], weights))


def ahead(x_BL: jax.Array, segment_BL: jax.Array, by: int) -> jax.Array:
  """The values `by` tokens later in the same document; 0 beyond its end.

  Example, by=1:  x [1, 2, 3, 4], segment [1, 1, 2, 2]  ->  [2, 0, 4, 0]
  """
  if not by:
    return x_BL
  move = lambda x: jnp.pad(x[:, by:], ((0, 0), (0, by)))
  return jnp.where(move(segment_BL) == segment_BL, move(x_BL), 0)
