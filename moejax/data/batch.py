"""Batch: packed rows, as the training step and evaluations read them."""

from typing import Any

from flax import struct


@struct.dataclass
class Batch:
  """B rows of L tokens; `features.pack` has an example.

  Attributes:
    token_BL: int32, what the model reads; the vocabulary's `first_id` at the
      start of every segment, and 0 in padding.
    target_BL: int32, the next token, which the model is to predict.
    weight_BL: float32, 1 where a target counts; 0 in padding, and in the
      prompts of conversations.
    position_BL: int32, counts from 0 inside each segment.
    segment_BL: int32, the number of the token's document within its row, from
      1; 0 is padding. Attention stays within a segment.
    images: the images of the rows, `vision.inputs.RowImages`; None for text.
  """

  token_BL: Any
  target_BL: Any
  weight_BL: Any
  position_BL: Any
  segment_BL: Any
  images: Any = None
