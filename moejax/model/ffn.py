"""Feed-forwards: the dense one, and a table of how the others are made."""

import jax
from flax import nnx
from jax.sharding import Mesh

from moejax.model.config import ModelConfig
from moejax.moe import experts, feed_forwards, layer
from moejax.moe.experts import base
from moejax.moe.feed_forwards import peer, soft_moe
from moejax.parallel import chunking


class Dense(nnx.Module):
  """One expert that every token passes: SwiGLU (arXiv 2002.05202)."""

  def __init__(self, config: ModelConfig, mesh: Mesh, key: jax.Array):
    self.mesh, self.chunks = mesh, config.token_chunks
    self.expert = experts.SwiGLU()
    self.w = nnx.Dict(
      self.expert.init(
        key, 1, config.width, config.dense_width, config.init_std
      )
    )

  def __call__(self, x_BLD: jax.Array) -> jax.Array:
    """Every token through the same two layers."""
    w = {name: p[...].astype(x_BLD.dtype) for name, p in self.w.items()}
    w = base.for_dense(w, self.mesh.devices.flat[0].platform)

    def run(x_BLD: jax.Array) -> jax.Array:
      x_TD = x_BLD.reshape(-1, x_BLD.shape[-1])
      return self.expert.dense(w, x_TD).reshape(x_BLD.shape)

    return chunking.map_chunks(run, x_BLD, self.chunks, self.mesh)


def _routed(config: ModelConfig, mesh: Mesh, key: jax.Array) -> layer.MoE:
  return layer.MoE(
    config.moe,
    config.width,
    config.init_std,
    mesh,
    key,
    config.token_chunks,
    remat=config.remat != 'none',
  )


def _soft_moe(
  config: ModelConfig, mesh: Mesh, key: jax.Array
) -> soft_moe.SoftMoE:
  del mesh
  of, std = config.feed_forward, config.init_std
  return soft_moe.SoftMoE(of, config.width, config.max_length, std, key)


def _peer(config: ModelConfig, mesh: Mesh, key: jax.Array) -> peer.PEER:
  del mesh
  return peer.PEER(config.feed_forward, config.width, config.init_std, key)


# The kind of config.feed_forward -> (config, mesh, key) -> module.
SPARSE = {
  feed_forwards.Routed: _routed,
  feed_forwards.SoftMoEConfig: _soft_moe,
  feed_forwards.PEERConfig: _peer,
}
