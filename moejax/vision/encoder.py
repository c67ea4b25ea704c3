"""The encoder: images to the tokens of a vision transformer.

embed     image_BHWC -> x_BND    a vector for each patch, and its position
layers    x_BND -> x_BND         all layers, in a loop
pooling   x_BND -> x_BND, [B, D] the last norm, and one vector of an image
"""

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from moejax.core import errors, linear
from moejax.moe import feed_forward
from moejax.parallel import rules
from moejax.vision import block, layers, positions
from moejax.vision.config import VisionConfig
from moejax.vision.inputs import ImageContext
from moejax.vision.pooling import POOLINGS

# The activations between two layers, and what the next one reads besides them.
_Carry = tuple[jax.Array, feed_forward.PreviousLayer | None]
_ACTIVATION_AXES = ('batch', 'unsharded', 'unsharded')


@flax.struct.dataclass
class Encoded:
  """What an encoder makes of images.

  Attributes:
    x_BND: the tokens after the last layer, normalised unless the pooling is
      `class`; the class token, if there is one, is the first.
    pooled_BD: one vector of each image; None if the pooling is `none`.
  """

  x_BND: jax.Array
  pooled_BD: jax.Array | None


class VisionEncoder(nnx.Module):
  """A vision transformer whose layers are stored as one stack."""

  def __init__(self, config: VisionConfig, mesh: Mesh, key: jax.Array):
    config.check()
    self.config, self.mesh = config, mesh
    platform = mesh.devices.flat[0].platform
    self.linear = linear.of(platform)
    keys, std = jax.random.split(key, 5), config.init_std
    width, side = config.width, config.patch_size
    self.w_PQCD = layers.matrix(
      keys[0], (side, side, 3, width), ('unsharded',) * 3 + ('embed',), std
    )
    if config.patch_bias:
      self.b_D = layers.zeros((width,), ('embed',))
    drawn = std * jax.random.normal(
      keys[1], (config.class_token + config.grid**2, width)
    )
    # With the position of the class token, if there is one, in front.
    self.position_ND = nnx.Param(
      drawn, axes=('unsharded', 'embed'), decays=False
    )
    if config.class_token:
      self.class_D = nnx.Param(
        std * jax.random.normal(keys[2], (width,)),
        axes=('embed',),
        decays=False,
      )
    if config.norm_first:
      self.norm_first = layers.LayerNorm(width, config.norm_eps)
    make = nnx.vmap(lambda key: block.Block(config, mesh, key))
    self.layers = make(jax.random.split(keys[3], config.num_layers))
    config.feed_forward.begin(self.layers.ffn)
    self.norm = layers.LayerNorm(width, config.norm_eps)
    self.pooling = POOLINGS[config.pooling](config, platform, keys[4])

  def __call__(self, image_BHWC: jax.Array) -> Encoded:
    """Runs all layers on images of one size, normalised as in training."""
    x_BND = self.embed(image_BHWC)
    images = ImageContext.of(len(x_BND))
    before = x_BND, self._no_previous_layer(x_BND)
    (x_BND, _), _ = self._run(before, 0, self.config.num_layers, images)
    return Encoded(*self.pooling(x_BND, self.norm))

  def features(
    self,
    image_BHWC: jax.Array,
    layers: Sequence[int] = (-2,),
    *,
    class_token: bool = False,
  ) -> jax.Array:
    """Tokens [B, N, D * len(layers)] as vision-language models read them.

    Layers behind the last one that is asked for are not computed, and no norm
    is applied after the last layer.

    Args:
      image_BHWC: images of one size, normalised as in training.
      layers: 0 for the embeddings, n for the output of layer n, from 1; or from
        the end, with -1 for the last layer. Several are joined along D. LLaVA
        (arXiv 2310.03744) reads -2.
      class_token: whether the class token stays in front, if there is one.

    Raises:
      InputError: a layer that the encoder does not have.
    """
    images = ImageContext.of(len(image_BHWC))
    return self.read(image_BHWC, images, layers, class_token=class_token)[0]

  def read(
    self,
    image_BHWC: jax.Array,
    images: ImageContext,
    layers: Sequence[int] = (-2,),
    *,
    class_token: bool = False,
  ) -> tuple[jax.Array, feed_forward.Record | None]:
    """As `features`, with the record of the layers that were computed.

    Args:
      image_BHWC: as of `features`.
      images: which images are padding, and the key of the step.
      layers: as of `features`.
      class_token: as of `features`.

    Returns:
      The features; and the record, a first axis for the layers, or None if no
      layer has experts.
    """
    self.config.check_layers(layers)
    count = self.config.num_layers + 1
    wanted = [layer % count for layer in layers]
    x_BND = self.embed(image_BHWC)
    outputs, records, done = {}, [], 0
    before = x_BND, self._no_previous_layer(x_BND)
    for layer in sorted({*wanted}):
      if layer > done:
        before, record = self._run(before, done, layer, images)
        records.append(record)
        done = layer
      outputs[layer] = before[0]
    start = int(self.config.class_token and not class_token)
    joined = [outputs[n][:, start:] for n in wanted]
    feature_BND = jnp.concatenate(joined, axis=-1)
    if not (records and records[0].stats):
      return feature_BND, None
    return feature_BND, jax.tree.map(lambda *x: jnp.concatenate(x), *records)

  def embed(self, image_BHWC: jax.Array) -> jax.Array:
    """x_BND of images in the compute type: what the first layer reads.

    Raises:
      InputError: the images are smaller than a patch, or have no three
        channels.
    """
    config, side = self.config, self.config.patch_size
    batch, height, width, channels = image_BHWC.shape
    rows, columns = height // side, width // side
    if channels != 3 or not rows * columns:
      raise errors.InputError(
        f'images of {height} x {width} pixels and {channels} channels: an '
        f'encoder with patches of {side} x {side} pixels reads 3 channels and '
        'at least one patch'
      )
    image = image_BHWC[:, : rows * side, : columns * side].astype(config.dtype)
    image = image.reshape(batch, rows, side, columns, side, channels)
    patch = image.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, side, side, 3)
    w = self.w_PQCD[...].astype(config.dtype)
    x_BND = self.linear(patch, w, contract=3)
    if config.patch_bias:
      x_BND += self.b_D[...].astype(config.dtype)
    x_BND += self._positions(rows, columns).astype(config.dtype)
    if config.class_token:
      first_D = self.class_D[...] + self.position_ND[0]
      first_B1D = jnp.broadcast_to(first_D, (batch, 1, config.width))
      x_BND = jnp.concatenate([first_B1D.astype(x_BND.dtype), x_BND], axis=1)
    if config.norm_first:
      x_BND = self.norm_first(x_BND)
    return rules.constrain(x_BND, _ACTIVATION_AXES, self.mesh)

  def _positions(self, rows: int, columns: int) -> jax.Array:
    """float32 position embeddings of the patches of a grid."""
    own_ND = self.position_ND[...][int(self.config.class_token) :]
    return positions.resized(own_ND, rows, columns)

  def _no_previous_layer(
    self, x_BND: jax.Array
  ) -> feed_forward.PreviousLayer | None:
    """What the first layer reads of the layer before it."""
    before = self.config.feed_forward.no_previous_layer(*x_BND.shape[:2])
    return jax.tree.map(
      lambda x: rules.constrain(x, _ACTIVATION_AXES, self.mesh), before
    )

  def _run(
    self, before: _Carry, start: int, stop: int, images: ImageContext
  ) -> tuple[_Carry, feed_forward.Record]:
    """Runs the layers from `start` up to `stop`, without that one.

    Args:
      before: x_BND, and what the first of these layers reads of the one before.
      start: number of the first layer.
      stop: number behind the last one.
      images: as of `read`.

    Returns:
      The same behind these layers, and their records, stacked.
    """
    graph, stack = nnx.split(self.layers)
    tokens = images.tokens(before[0].shape[1])

    def body(carry, inputs):
      weights, layer = inputs
      key = images.part(layer).key
      x_BND, previous, record = nnx.merge(graph, weights)(
        carry[0], tokens, carry[1], key, layer
      )
      x_BND = rules.constrain(x_BND, _ACTIVATION_AXES, self.mesh)
      return (x_BND, previous), record

    part = jax.tree.map(lambda w: w[start:stop], stack)
    return jax.lax.scan(body, before, (part, jnp.arange(start, stop)))
