"""The layers of a decoder one at a time, each with weights of its own.

The decoder runs its layers in a loop over stacked weights. Here a caller runs
one layer after the other, for what needs a layer by itself: a model that does
not fit into memory, or a look into a layer.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from moejax.core import errors
from moejax.model.block import Block, LayerSpec, TokenContext
from moejax.model.build import Model, Weights
from moejax.model.config import ModelConfig
from moejax.model.decoder import Decoder
from moejax.model.trunk import ACTIVATION_AXES
from moejax.moe import feed_forward
from moejax.moe.feed_forward import PreviousLayer, Record
from moejax.moe.routes import RoutesRequest
from moejax.parallel import rules
from moejax.vision.front_end import TextOnly


@dataclasses.dataclass(frozen=True)
class Place:
  """One layer of a model.

  Attributes:
    kind: 'dense' or 'moe'.
    index: its number among the layers of its kind, from 0.
    window: number of tokens that its attention sees, 0 for all; None if no
      layer of the model has a window.
  """

  kind: str
  index: int
  window: int | None

  @property
  def spec(self) -> LayerSpec:
    """The same as arrays, so that all layers of a kind have one program."""
    window = None if self.window is None else jnp.int32(self.window)
    return LayerSpec(jnp.int32(self.index), window)


def places(config: ModelConfig) -> list[Place]:
  """The layers of a model in their order, those of its trunk."""
  windows, count = config.windows, dict.fromkeys(config.kinds, 0)
  order = []
  for number, kind in enumerate(config.kinds):
    window = windows[number % len(windows)] if any(windows) else None
    order.append(Place(kind, count[kind], window))
    count[kind] += 1
  return order


@dataclasses.dataclass(frozen=True)
class Layers:
  """The layers of a model as functions of their own weights, for use in `jit`.

  Attributes:
    model: the network.
    graphs: the structure of a layer of each kind.
  """

  model: Model
  graphs: dict[str, Any]

  @classmethod
  def of(cls, model: Model) -> 'Layers':
    """The layers of a model.

    Raises:
      InputError: the model reads images, which `begin` does not put in place.
    """
    if model.config.vision != TextOnly():
      raise errors.InputError(
        'a model that reads images cannot be run one layer at a time: take the '
        'way that reads the whole model'
      )
    # Of abstract weights, for the structure of a layer alone.
    decoder = nnx.eval_shape(lambda: model.bind(model.shapes))
    kinds = [kind for kind in ('dense', 'moe') if hasattr(decoder, kind)]
    graphs = {kind: nnx.split(getattr(decoder, kind))[0] for kind in kinds}
    return cls(model, graphs)

  def block(self, kind: str, weights: Weights) -> Block:
    """One layer.

    Args:
      kind: of the layer.
      weights: its own, without the axis of layers.
    """
    state = nnx.State(jax.tree.map(nnx.Param, weights))
    return nnx.merge(self.graphs[kind], state)

  def begin(
    self, embed_VD: jax.Array, token_BL: jax.Array
  ) -> tuple[jax.Array, PreviousLayer | None]:
    """x_BLD before the first layer, and the `previous` of the first one.

    Args:
      embed_VD: the table of the embedding.
      token_BL: int32 ids.
    """
    config = self.model.config
    x_BLD = self._decoder({'embed_VD': embed_VD}).embed(token_BL)
    if not (config.num_sparse and config.is_routed):
      return x_BLD, None
    return x_BLD, feed_forward.no_previous_layer(config.moe, *token_BL.shape)

  def context(
    self,
    token_BL: jax.Array,
    segment_BL: jax.Array,
    position_BL: jax.Array,
    routes: RoutesRequest | None = None,
  ) -> TokenContext:
    """What the layers read of the tokens; arguments as of `Decoder`."""
    tokens = self._decoder({}).token_context(token_BL, segment_BL, position_BL)
    return dataclasses.replace(tokens, routes=routes)

  def _decoder(self, weights: Weights) -> Decoder:
    """The decoder with some weights, for what no other weight is needed for."""
    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), self.model.shapes
    )
    # The compiler leaves out the zeros.
    return self.model.bind({**zeros, **weights})

  def run(
    self,
    place: tuple[str, LayerSpec],
    weights: Weights,
    x_BLD: jax.Array,
    previous: PreviousLayer | None,
    tokens: TokenContext,
  ) -> tuple[jax.Array, PreviousLayer | None, Record]:
    """One layer in evaluation; returns as `Block`.

    Args:
      place: kind and spec of the layer.
      weights: its own, without the axis of layers.
      x_BLD: activations before it.
      previous: what the layer before passed on.
      tokens: the tokens.
    """
    kind, spec = place
    block = self.block(kind, weights)
    x_BLD, previous, record = block(x_BLD, previous, tokens, None, spec)
    x_BLD = rules.constrain(x_BLD, ACTIVATION_AXES, self.model.mesh)
    return x_BLD, previous, record
