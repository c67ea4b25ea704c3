"""PROJECTORS: from the features of an encoder to embeddings of a decoder.

projector = MLP().make(1152, 2048, mesh, key)
x_BND = projector(feature_BND)    # [B, N, 1152] to [B, N, 2048]
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Protocol

import jax
from flax import nnx
from jax.sharding import Mesh

from moejax.core import errors, fields, linear
from moejax.moe.feed_forward import Record
from moejax.vision import layers
from moejax.vision.activations import ACTIVATIONS
from moejax.vision.feed_forward import AsDense, Mixture, Sizes, Weights
from moejax.vision.inputs import ImageContext


class Projector(Protocol):
  """A module from features to embeddings, each token by itself."""

  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., width of the features] to [..., width of the decoder]."""
    ...


class ProjectorConfig(Protocol):
  """The config of a kind of projector, an entry of PROJECTORS."""

  def check(self) -> None:
    """Raises InputError if values do not fit together."""
    ...

  def make(
    self, width: int, out: int, mesh: Mesh, key: jax.Array
  ) -> nnx.Module:
    """The module, from features of `width` to embeddings of width `out`."""
    ...

  def apply(
    self, module: Any, x: jax.Array, images: ImageContext
  ) -> tuple[jax.Array, Record | None]:
    """The embeddings of X images, and the record of a module with experts.

    Args:
      module: from `make`.
      x: features [..., N, width of the features] of X images.
      images: which of the images are padding, and the key of the step.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Plain(fields.Checked):
  """The base of projectors without experts."""

  def check(self) -> None:
    """See `ProjectorConfig`."""

  def apply(
    self, module: Any, x: jax.Array, images: ImageContext
  ) -> tuple[jax.Array, Record | None]:
    """See `ProjectorConfig`."""
    del images
    return module(x), None


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
class Linear(Plain):
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
class MLP(Plain):
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
    platform, sizes = mesh.devices.flat[0].platform, self.sizes(width, out)
    return layers.FeedForward(
      (width, sizes.hidden, out), self.activation, self.init_std, platform, key
    )

  def sizes(self, width: int, out: int) -> Sizes:
    """The feed-forward from features of `width` to embeddings of `out`."""
    hidden = self.hidden_width or out
    return Sizes(width, hidden, out, self.activation, self.init_std)


class ExpertsProjector(nnx.Module):
  """A mixture of experts from features to embeddings."""

  def __init__(
    self,
    config: Mixture,
    sizes: Sizes,
    mesh: Mesh,
    key: jax.Array,
  ):
    self.ffn = config.module(sizes, mesh, key)
    self.config = config

  def __call__(self, x: jax.Array) -> jax.Array:
    """See `Projector`; the tokens of an image are along the axis before."""
    num = math.prod(x.shape[:-2])
    return self.read(x, ImageContext.of(num))[0]

  def read(
    self, x: jax.Array, images: ImageContext
  ) -> tuple[jax.Array, Record]:
    """As a call, and the record, in front of which is an axis of one layer."""
    x_XND = x.reshape(-1, *x.shape[-2:])
    rows, length = x_XND.shape[:2]
    before = self.config.no_previous_layer(rows, length)
    out_XND, _, record = self.ffn(
      x_XND, images.tokens(length), before, images.key
    )
    out = out_XND.reshape(*x.shape[:-1], -1)
    return out, jax.tree.map(lambda x: x[None], record)


@dataclasses.dataclass(frozen=True)
class Experts(Mixture):
  """A mixture of MLPs: LibMoE's upcycled connector (arXiv 2411.00918).

  Keys and defaults are those of an encoder's layers with experts. An expert is
  a whole MLP, from features to embeddings.

  Attributes:
    expert_width: hidden width of an expert; 0: that of the output.
    activation: of `experts.name=as_dense`.
    init_std: standard deviation of the matrices at the start.
  """

  expert_width: int = fields.number(
    0, at_least=0, note="0: the decoder's width"
  )
  activation: str = fields.named(ACTIVATIONS, 'gelu')
  init_std: float = fields.number(0.02, above=0, at_most=10)

  def sizes(self, width: int, out: int) -> Sizes:
    """The MLP that an expert stands for."""
    return Sizes(width, out, out, self.activation, self.init_std)

  def check(self, sizes: Sizes | None = None) -> None:
    """See `Mixture`; without `sizes`, for any widths."""
    if self.routers_start_equal:
      raise errors.InputError(
        'routers_start_equal=True: a projector has one router; leave it out'
      )
    if isinstance(self.experts, AsDense):
      sizes = sizes or self.sizes(1, 1)
    super().check(sizes)

  def make(
    self, width: int, out: int, mesh: Mesh, key: jax.Array
  ) -> nnx.Module:
    """The module, from features of `width` to embeddings of width `out`."""
    return ExpertsProjector(self, self.sizes(width, out), mesh, key)

  def apply(  # type: ignore[override] # that of projectors
    self, module: Any, x: jax.Array, images: ImageContext
  ) -> tuple[jax.Array, Record | None]:
    """See `ProjectorConfig`."""
    return module.read(x, images)

  def after_step(self, old: Weights, new: Weights, record: Record) -> Weights:
    """See `Mixture`; the weights have no axis of layers."""
    one = lambda tree: jax.tree.map(lambda x: x[None], tree)
    kept = super().after_step(one(old), one(new), record)
    return jax.tree.map(lambda x: x[0], kept)


# Kinds of projectors by name in a config.
PROJECTORS: Mapping[str, type[ProjectorConfig]] = {
  'experts': Experts,
  'linear': Linear,
  'mlp': MLP,
}
