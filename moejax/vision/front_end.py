"""VISIONS: what a model reads besides text, by name.

A front end puts the features of images in place of image tokens, before the
first layer of a decoder:

  encode    image_BIHWC -> feature_BIND     a vision transformer
  project   feature_BIND -> x_BIND          to the width of the decoder
  insert    x_BIND, x_BLD -> x_BLD          in place of image tokens
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from moejax.core import errors, fields
from moejax.vision import insertion
from moejax.vision.config import VisionConfig
from moejax.vision.encoder import VisionEncoder
from moejax.vision.inputs import RowImages
from moejax.vision.projector import MLP, PROJECTORS, ProjectorConfig


class FrontEnd(nnx.Module):
  """An encoder and a projector."""

  def __init__(self, config: 'Encoder', width: int, mesh: Mesh, key: jax.Array):
    """Makes the weights.

    Args:
      config: of encoder and projector.
      width: of the decoder.
      mesh: the devices.
      key: random key.
    """
    self.reads = config.layers
    keys = jax.random.split(key)
    self.encoder = VisionEncoder(config.encoder, mesh, keys[0])
    self.projector = config.projector.make(
      config.feature_width, width, mesh, keys[1]
    )

  def __call__(self, x_BLD: jax.Array, images: RowImages) -> jax.Array:
    """The embeddings with features in place of image tokens.

    Args:
      x_BLD: embeddings of tokens; those of image tokens are not used.
      images: of the rows.

    Returns:
      [B, L, D] in the type of `x_BLD`.
    """
    feature_BIND = images.feature_BIND
    if feature_BIND is None:
      feature_BIND = self.encode(images.image_BIHWC)
    projected_BIND = self.projector(feature_BIND.astype(x_BLD.dtype))
    joined_BID = projected_BIND.reshape(
      projected_BIND.shape[0], -1, projected_BIND.shape[-1]
    )
    return insertion.insert(x_BLD, images.is_image_BL, joined_BID)

  def encode(self, image_BIHWC: jax.Array) -> jax.Array:
    """feature_BIND of images."""
    rows, each = image_BIHWC.shape[:2]
    # Rows stay on their devices: the images of a row are next to each other.
    image_XHWC = image_BIHWC.reshape(-1, *image_BIHWC.shape[2:])
    feature_XND = self.encoder.features(image_XHWC, self.reads)
    return jnp.reshape(feature_XND, (rows, each, *feature_XND.shape[1:]))


@dataclasses.dataclass(frozen=True)
class TextOnly(fields.Checked):
  """The model reads text alone."""

  def check(self) -> None:
    """Raises InputError if values do not fit together."""

  def check_images(self, tokens: int, size: tuple[int, ...] | None) -> None:
    """Raises InputError unless the model reads the images of the data.

    Args:
      tokens: `data.images.tokens`.
      size: rows and columns of the images; None for features.
    """
    del tokens, size
    raise errors.InputError(
      'data.images.folder is set, and the model reads text alone: set '
      'model.vision.name=encoder, or leave the images out'
    )

  def make(self, width: int, mesh: Mesh, key: jax.Array) -> FrontEnd | None:
    """The module; None for no front end.

    Args:
      width: of the decoder.
      mesh: the devices.
      key: random key.
    """
    del width, mesh, key
    return None


@dataclasses.dataclass(frozen=True)
class Encoder(TextOnly):
  """Images through a vision transformer and a projector (arXiv 2304.08485).

  Attributes:
    encoder: the vision transformer.
    layers: its layers whose outputs are joined along their width; -2 is the one
      before the last, as in LLaVA-1.5 (arXiv 2310.03744).
    projector: from features to embeddings of the decoder.
  """

  encoder: VisionConfig = VisionConfig(pooling='none')
  layers: tuple[int, ...] = fields.number(
    (-2,), at_least=-(10**4), at_most=10**4
  )
  projector: ProjectorConfig = fields.choice(PROJECTORS, MLP())

  @property
  def feature_width(self) -> int:
    """Width of the features that the projector reads."""
    return self.encoder.width * len(self.layers)

  def check(self) -> None:
    """Raises InputError if values do not fit together."""
    try:
      self.encoder.check()
    except errors.InputError as e:
      raise errors.InputError(f'encoder.{e}') from None
    if not self.layers:
      raise errors.InputError(
        'layers=() reads no layer of the encoder: set it to -2, say'
      )
    try:
      self.encoder.check_layers(self.layers)
    except errors.InputError as e:
      raise errors.InputError(f'layers: {e}') from None

  def check_images(self, tokens: int, size: tuple[int, ...] | None) -> None:
    """See `TextOnly`."""
    side = self.encoder.patch_size
    rows, columns = size or (self.encoder.image_size,) * 2
    patches = (rows // side) * (columns // side)
    if not patches:
      raise errors.InputError(
        f'data.images.prepare makes images of {rows} x {columns} pixels, less '
        f'than a patch of model.vision.encoder.patch_size={side}'
      )
    if patches != tokens:
      raise errors.InputError(
        f'data.images.tokens={tokens}, but images of {rows} x {columns} pixels '
        f'have {patches} patches of model.vision.encoder.patch_size={side}: '
        f'set data.images.tokens={patches}'
      )

  def make(self, width: int, mesh: Mesh, key: jax.Array) -> FrontEnd:
    """See `TextOnly`."""
    return FrontEnd(self, width, mesh, key)


VISIONS: Mapping[str, type[TextOnly]] = {'none': TextOnly, 'encoder': Encoder}
