"""RowImages: the images of packed rows, as a decoder reads them."""

from typing import Any

from flax import struct


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
