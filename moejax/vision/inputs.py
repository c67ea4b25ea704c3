"""RowImages: the images of packed rows, as a decoder reads them."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from moejax.moe.feed_forward import TokenInfo


@struct.dataclass
class RowImages:
  """The images of B rows, at most I in each, or features of them.

  Exactly one of the first two is there; features were computed beforehand by an
  encoder that is not trained.

  Attributes:
    image_BIHWC: float32, images of one size, normalised; zeros behind the last
      image of a row.
    feature_BIND: float32, the output of the encoder for N patches each.
    num_B: int32, number of images of each row.
    is_image_BL: bool, whether a token is an image token. A row with n images
      has n times N of them, in the order of the images.
  """

  image_BIHWC: Any
  feature_BIND: Any
  num_B: Any
  is_image_BL: Any


@struct.dataclass
class ImageContext:
  """What layers with experts use of X images besides the activations.

  Attributes:
    valid_X: bool; False for the padding behind the last image of a row.
    index_X: int32, index of each image in the global batch. Routers draw noise
      by it.
    key: random key of this step; None means evaluation: no noise.
  """

  valid_X: jax.Array
  index_X: jax.Array
  key: jax.Array | None = None

  @classmethod
  def of(cls, num: int) -> 'ImageContext':
    """That of `num` images in evaluation."""
    return cls(jnp.ones(num, bool), jnp.arange(num, dtype=jnp.int32))

  @classmethod
  def of_rows(
    cls, images: RowImages, row_B: jax.Array | None, key: jax.Array | None
  ) -> 'ImageContext':
    """That of the images of rows, one row after the other.

    Args:
      images: of the rows.
      row_B: int32, index of each row in the global batch; None means 0, 1, ...
      key: as of this class.
    """
    held = images.image_BIHWC
    rows, each = (images.feature_BIND if held is None else held).shape[:2]
    if row_B is None:
      row_B = jnp.arange(rows, dtype=jnp.int32)
    number_I = jnp.arange(each, dtype=jnp.int32)
    valid_BI = number_I < jnp.asarray(images.num_B)[:, None]
    index_BI = row_B[:, None] * each + number_I
    return cls(valid_BI.reshape(-1), index_BI.reshape(-1), key)

  def tokens(self, length: int) -> TokenInfo:
    """The same for the `length` tokens of each image.

    All have the vocabulary id 0.
    """
    valid_XN = jnp.repeat(self.valid_X[:, None], length, axis=1)
    index_XN = self.index_X[:, None] * length + jnp.arange(length)
    return TokenInfo(valid_XN, index_XN, jnp.zeros_like(index_XN))

  def part(self, number: int) -> 'ImageContext':
    """The same with another key, for one of several parts of a model."""
    key = None if self.key is None else jax.random.fold_in(self.key, number)
    return self.replace(key=key)  # type: ignore[attr-defined] # of struct
