"""The contract of feed-forwards: all kinds are called alike.

    out_BLD, previous, record = ffn(x_BLD, tokens, previous, key, layer)

A dense layer, a mixture of experts, PEER and Soft MoE are such modules.
"""

import dataclasses
from typing import Any, ClassVar, Protocol

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from moejax.core import quantization
from moejax.moe.config import MoEConfig
from moejax.moe.replay import Replayed
from moejax.moe.routes import Routes, RoutesRequest


@flax.struct.dataclass
class TokenInfo:
  """The tokens of a batch, besides their activations.

  Attributes:
    valid_BL: bool; False marks padding, which no expert but the shared ones
      computes.
    index_BL: int32 place in the global batch.
    token_BL: int32 vocabulary ids.
    routes: static; what the layer records of its routes; None for nothing.
    replayed: the experts that the layer uses in place of its router's choice,
      arrays [B, L, K]; None for none.
    row_axes: static; the mesh axes over which sequences are split, so that a
      row [L] is a piece of one.
  """

  valid_BL: jax.Array
  index_BL: jax.Array
  token_BL: jax.Array
  routes: RoutesRequest | None = flax.struct.field(
    pytree_node=False, default=None
  )
  replayed: Replayed | None = None
  row_axes: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())


@flax.struct.dataclass
class PreviousLayer:
  """What one layer with experts hands to the next.

  Attributes:
    chosen_BLE: bool, the choices of each token.
    logits_BLE: float32 logits, for `gating_residual`; [B, L, 0] without it.
    state_BLR: float32 state of the scorer; R is its `state_width`, which is 0
      for most scorers.
  """

  chosen_BLE: jax.Array
  logits_BLE: jax.Array
  state_BLR: jax.Array


def no_previous_layer(
  config: MoEConfig, rows: int, length: int
) -> PreviousLayer:
  """What the first layer reads: no expert is chosen, all numbers are zero."""
  num_logits = config.num_logits if config.gating_residual else 0
  return PreviousLayer(
    chosen_BLE=jnp.zeros((rows, length, config.num_choices), bool),
    logits_BLE=jnp.zeros((rows, length, num_logits), jnp.float32),
    state_BLR=jnp.zeros((rows, length, config.scorer.state_width), jnp.float32),
  )


@flax.struct.dataclass
class Record:
  """What a layer reports besides its output; a model stacks it over layers.

  Attributes:
    balance: by name of a balance part, its sums over the global batch.
    stats: routing statistics by name, as `core.values`, which merge.
    routes: the routes of the tokens, if they were asked for.
    calibration: sums over the tokens of what each expert did with them, by name
      (`moe.calibration`); None unless they were asked for.
  """

  balance: dict[str, Any] = flax.struct.field(default_factory=dict)
  stats: dict[str, Any] = flax.struct.field(default_factory=dict)
  routes: Routes | None = None
  calibration: dict[str, jax.Array] | None = None


@dataclasses.dataclass(frozen=True)
class LayerSizes:
  """The sizes of a model that its feed-forwards are made with.

  Attributes:
    width: D, of the model.
    row_length: tokens of one sequence.
    init_std: standard deviation of matrices at the start.
    chunks: number of chunks into which the rows of a device are cut, to be
      computed one after the other.
    remat: whether the backward pass recomputes the layer.
    quantization: an entry of QUANTIZATIONS, for the layer's products.
  """

  width: int
  row_length: int
  init_std: float
  chunks: int = 1
  remat: bool = False
  quantization: str = quantization.NONE


class FeedForwardConfig(Protocol):
  """The config of a kind of feed-forward, an entry of FEED_FORWARDS.

  Attributes:
    keeps_experts: why no expert can be removed from a trained layer, as the end
      of a sentence; '' if some can.
  """

  keeps_experts: ClassVar[str]

  def check(self) -> None:
    """Raises InputError for fields that do not fit together."""
    ...

  def shrunk(self) -> 'FeedForwardConfig':
    """The config for a model that is shrunk to fit a laptop."""
    ...

  def make(
    self, sizes: LayerSizes, moe: MoEConfig, mesh: Mesh, key: jax.Array
  ) -> 'FeedForward':
    """The module of one layer.

    Args:
      sizes: of the model.
      moe: the config of routed experts, for the kind that has them.
      mesh: the devices.
      key: random key.
    """
    ...


class FeedForward(Protocol):
  """A feed-forward of one layer, a module.

  Attributes:
    whole_in_decoding: name of the parameters that a step of decoding may be
      given whole, for all layers; '' for none. They are arrays [N, ...] then,
      and `of_all_layers` is set. So no step copies what it does not read.
  """

  @property
  def whole_in_decoding(self) -> str: ...

  def __call__(
    self,
    x_BLD: jax.Array,
    tokens: TokenInfo,
    previous: PreviousLayer | None,
    key: jax.Array | None,
    layer: jax.Array | int = 0,
  ) -> tuple[jax.Array, PreviousLayer | None, Record]:
    """Returns out_BLD, what the next layer reads, and the record.

    A feed-forward that does not route passes `previous` on as it is, and its
    record is empty.

    Args:
      x_BLD: activations in the compute type.
      tokens: the tokens whose activations these are.
      previous: of the layer before, or `no_previous_layer`; None in a model
        without routed experts.
      key: random key for this layer and step, or None in evaluation: no noise.
      layer: number of the layer among those of its kind, from 0.
    """
    ...
