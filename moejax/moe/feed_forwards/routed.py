"""The mixture of experts of `model.moe` as a choice among feed-forwards."""

import dataclasses
from typing import ClassVar

import jax
from jax.sharding import Mesh

from moejax.moe.config import MoEConfig
from moejax.moe.feed_forward import LayerSizes
from moejax.moe.layer import MoE


@dataclasses.dataclass(frozen=True)
class Routed:
  """A mixture of routed experts, whose config is `model.moe`."""

  keeps_experts: ClassVar[str] = ''

  def check(self) -> None:
    """Does nothing, since this config has no fields; see `MoEConfig.check`."""

  def shrunk(self) -> 'Routed':
    """The same for a model that is shrunk to a laptop's."""
    return self

  def make(
    self, sizes: LayerSizes, moe: MoEConfig, mesh: Mesh, key: jax.Array
  ) -> MoE:
    """The module of one layer."""
    return MoE(
      moe,
      sizes.width,
      sizes.init_std,
      mesh,
      key,
      sizes.chunks,
      remat=sizes.remat,
      quantization=sizes.quantization,
    )
