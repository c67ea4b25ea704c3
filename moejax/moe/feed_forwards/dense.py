"""The dense feed-forward: one expert for every token."""

from typing import ClassVar

import jax
from flax import nnx
from jax.sharding import Mesh

from moejax.core import linear
from moejax.moe import experts
from moejax.moe.experts import base
from moejax.moe.feed_forward import LayerSizes, PreviousLayer, Record, TokenInfo
from moejax.parallel import chunking


class Dense(nnx.Module):
  """One expert that every token passes: SwiGLU (arXiv 2002.05202)."""

  whole_in_decoding: ClassVar[str] = ''

  def __init__(
    self, sizes: LayerSizes, hidden: int, mesh: Mesh, key: jax.Array
  ):
    self.mesh, self.chunks = mesh, sizes.chunks
    self.quantization = sizes.quantization
    self.expert = experts.SwiGLU()
    self.w = nnx.Dict(
      self.expert.init(key, 1, sizes.width, hidden, sizes.init_std)
    )

  def __call__(
    self,
    x_BLD: jax.Array,
    tokens: TokenInfo,
    previous: PreviousLayer | None,
    key: jax.Array | None,
    layer: jax.Array | int = 0,
  ) -> tuple[jax.Array, PreviousLayer | None, Record]:
    """See `feed_forward.FeedForward`."""
    del tokens, key, layer
    return self.output(x_BLD), previous, Record()

  def output(self, x_BLD: jax.Array) -> jax.Array:
    """out_BLD: every token through the same expert."""
    w = {name: p[...].astype(x_BLD.dtype) for name, p in self.w.items()}
    platform = self.mesh.devices.flat[0].platform
    w = base.for_dense(w, platform)
    product = linear.of(platform, self.quantization)

    def run(x_BLD: jax.Array) -> jax.Array:
      x_TD = x_BLD.reshape(-1, x_BLD.shape[-1])
      return self.expert.dense(w, x_TD, product).reshape(x_BLD.shape)

    return chunking.map_chunks(run, x_BLD, self.chunks, self.mesh)
