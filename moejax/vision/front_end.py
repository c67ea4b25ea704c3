"""VISIONS: what a model reads besides text, by name.

A front end puts the features of images in place of image tokens, before the
first layer of a decoder:

  encode    image_BIHWC -> feature_BIND     a vision transformer
  project   feature_BIND -> x_BIND          to the width of the decoder
  insert    x_BIND, x_BLD -> x_BLD          in place of image tokens
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from moejax.core import errors, fields
from moejax.moe.feed_forward import Record
from moejax.vision import insertion
from moejax.vision.config import VisionConfig
from moejax.vision.encoder import VisionEncoder
from moejax.vision.feed_forward import Mixture, Sizes, named
from moejax.vision.inputs import ImageContext, RowImages
from moejax.vision.projector import (
  MLP,
  PROJECTORS,
  Experts,
  ProjectorConfig,
)

# Where in a model's weights the layers with experts are, by part.
PLACES = {
  'encoder': ('vision', 'encoder', 'layers', 'ffn'),
  'projector': ('vision', 'projector', 'ffn'),
}
# Their keys.
KEYS = {
  'encoder': 'model.vision.encoder.feed_forward',
  'projector': 'model.vision.projector',
}


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
    self.reads, self.kind = config.layers, config.projector
    keys = jax.random.split(key)
    with named(KEYS['encoder']):
      self.encoder = VisionEncoder(config.encoder, mesh, keys[0])
    with named(KEYS['projector']):
      self.projector = self.kind.make(
        config.feature_width, width, mesh, keys[1]
      )

  def __call__(self, x_BLD: jax.Array, images: RowImages) -> jax.Array:
    """The embeddings with features in place of image tokens, in evaluation.

    Args:
      x_BLD: embeddings of tokens; those of image tokens are not used.
      images: of the rows.

    Returns:
      [B, L, D] in the type of `x_BLD`.
    """
    return self.read(x_BLD, images)[0]

  def read(
    self,
    x_BLD: jax.Array,
    images: RowImages,
    row_B: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, dict[str, Record]]:
    """As a call, with the records of the layers with experts.

    Args:
      x_BLD: embeddings of tokens; those of image tokens are not used.
      images: of the rows.
      row_B: int32, index of each row in the global batch; None means 0, 1, ...
      key: random key of this step; None means evaluation: no noise.

    Returns:
      [B, L, D] in the type of `x_BLD`; and by the names of `Encoder.mixtures`
      the records of those that were computed, a first axis for the layers.
    """
    context = ImageContext.of_rows(images, row_B, key)
    records: dict[str, Record | None] = {}
    feature_BIND = images.feature_BIND
    if feature_BIND is None:
      feature_BIND, record = self._encode(images.image_BIHWC, context.part(0))
      records['encoder'] = record
    feature_BIND = feature_BIND.astype(x_BLD.dtype)
    joined_BID, record = self._project(feature_BIND, context.part(1))
    records['projector'] = record
    x_BLD = insertion.insert(x_BLD, images.is_image_BL, joined_BID)
    return x_BLD, {k: r for k, r in records.items() if r is not None}

  def encode(self, image_BIHWC: jax.Array) -> jax.Array:
    """feature_BIND of images."""
    rows, each = image_BIHWC.shape[:2]
    return self._encode(image_BIHWC, ImageContext.of(rows * each))[0]

  def _encode(
    self, image_BIHWC: jax.Array, context: ImageContext
  ) -> tuple[jax.Array, Record | None]:
    """feature_BIND of images, and the record of the encoder's layers."""
    rows, each = image_BIHWC.shape[:2]
    # Rows stay on their devices: the images of a row are next to each other.
    image_XHWC = image_BIHWC.reshape(-1, *image_BIHWC.shape[2:])
    with named(KEYS['encoder']):
      feature_XND, record = self.encoder.read(image_XHWC, context, self.reads)
    shape = (rows, each, *feature_XND.shape[1:])
    return jnp.reshape(feature_XND, shape), record

  def _project(
    self, feature_BIND: jax.Array, context: ImageContext
  ) -> tuple[jax.Array, Record | None]:
    """The embeddings of each row's images, one after the other; the record."""
    with named(KEYS['projector']):
      out_BIND, record = self.kind.apply(self.projector, feature_BIND, context)
    return out_BIND.reshape(out_BIND.shape[0], -1, out_BIND.shape[-1]), record


@dataclasses.dataclass(frozen=True)
class TextOnly(fields.Checked):
  """The model reads text alone."""

  @property
  def mixtures(self) -> dict[str, Mixture]:
    """The configs of layers with experts, by the part that has them."""
    return {}

  def check(self) -> None:
    """Raises InputError if values do not fit together."""

  def check_used(self) -> None:
    """Raises InputError for a balance part that could not do its work.

    Only new runs are checked.
    """

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

  @property
  def mixtures(self) -> dict[str, Mixture]:
    """See `TextOnly`."""
    parts: dict[str, Any] = {
      'encoder': self.encoder.feed_forward,
      'projector': self.projector,
    }
    return {k: p for k, p in parts.items() if isinstance(p, Mixture)}

  def sizes(self, part: str, width: int) -> Sizes:
    """The dense feed-forward that experts of a part stand for.

    Args:
      part: a name in `mixtures`.
      width: of the decoder.
    """
    if part == 'projector' and isinstance(self.projector, Experts):
      return self.projector.sizes(self.feature_width, width)
    return self.encoder.sizes

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
    try:
      self.projector.check()
    except errors.InputError as e:
      raise errors.InputError(f'projector.{e}') from None

  def check_used(self) -> None:
    """See `TextOnly`."""
    for part, mixture in self.mixtures.items():
      try:
        with named(KEYS[part]):
          mixture.check_used()
      except errors.InputError as e:
        raise errors.InputError(f'{KEYS[part]}.{e}') from None

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
