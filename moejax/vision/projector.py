"""PROJECTORS: from the features of an encoder to embeddings of a decoder.

projector = MLP().make(1152, 2048, mesh, key)
x_BND = projector(feature_BND)    # [B, N, 1152] to [B, N, 2048]
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import jax
from flax import nnx
from jax.sharding import Mesh

from moejax.core import fields, linear
from moejax.vision import layers
from moejax.vision.activations import ACTIVATIONS


class Projector(Protocol):
  """A module from features to embeddings, each token by itself."""

  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., width of the features] to [..., width of the decoder]."""
    ...


class ProjectorConfig(Protocol):
  """The config of a kind of projector, an entry of PROJECTORS."""

  def make(
    self, width: int, out: int, mesh: Mesh, key: jax.Array
  ) -> nnx.Module:
    """The module, from features of `width` to embeddings of width `out`."""
    ...


class LinearProjector(nnx.Module):
  """One matrix with a bias: LLaVA (arXiv 2304.08485, section 4.1)."""

  def __init__(
    self, width: int, out: int, std: float, mesh: Mesh, key: jax.Array
  ):
    self.w_FD = layers.matrix(key, (width, out), ('unsharded', 'embed'), std)
    self.b_D = layers.zeros((out,), ('embed',))
    self.linear = linear.of(mesh.devices.flat[0].platform)

  def __call__(self, x: jax.Array) -> jax.Array:
    """See `Projector`."""
    w, b = self.w_FD[...].astype(x.dtype), self.b_D[...].astype(x.dtype)
    return self.linear(x, w) + b


@dataclasses.dataclass(frozen=True)
class Linear(fields.Checked):
  """One matrix with a bias.

  Attributes:
    init_std: standard deviation of the matrix at the start.
  """

  init_std: float = fields.number(0.02, above=0, at_most=10)

  def make(
    self, width: int, out: int, mesh: Mesh, key: jax.Array
  ) -> nnx.Module:
    """The module, from features of `width` to embeddings of width `out`."""
    return LinearProjector(width, out, self.init_std, mesh, key)


@dataclasses.dataclass(frozen=True)
class MLP(fields.Checked):
  """Two matrices with biases: LLaVA-1.5 (arXiv 2310.03744, section 3.2).

  Attributes:
    hidden_width: width between the matrices; 0 for that of the output.
    activation: the function between them.
    init_std: standard deviation of the matrices at the start.
  """

  hidden_width: int = fields.number(
    0, at_least=0, note="0: the decoder's width"
  )
  activation: str = fields.named(ACTIVATIONS, 'gelu')
  init_std: float = fields.number(0.02, above=0, at_most=10)

  def make(
    self, width: int, out: int, mesh: Mesh, key: jax.Array
  ) -> nnx.Module:
    """The module, from features of `width` to embeddings of width `out`."""
    platform = mesh.devices.flat[0].platform
    sizes = width, self.hidden_width or out, out
    return layers.FeedForward(
      sizes, self.activation, self.init_std, platform, key
    )


# Kinds of projectors by name in a config.
PROJECTORS: Mapping[str, type[ProjectorConfig]] = {
  'linear': Linear,
  'mlp': MLP,
}
