"""What the model is trained on: one batch of packed rows."""

from typing import Any

from flax import struct


@struct.dataclass
class Batch:
  """B rows of L tokens; `features.expand` shows one.

  Attributes:
    token_BL: int32, what the model reads; the vocabulary's `first_id` at the
      start of every segment, and 0 in padding.
    target_BL: int32, what it should say next.
    weight_BL: float32, 1 where a target counts and 0 in padding.
    position_BL: int32, counts from 0 inside each segment.
    segment_BL: int32, which document of its row a token is of, from 1; 0 is
      padding. Tokens of two segments never see each other.
  """

  token_BL: Any
  target_BL: Any
  weight_BL: Any
  position_BL: Any
  segment_BL: Any
