"""Removes documents that are very short or very long."""

import dataclasses

from moejax.core import fields
from moejax.data.steps import base


@dataclasses.dataclass(frozen=True)
class Length(base.Filter):
  """Bounds on the characters of a document, space among them.

  Attributes:
    min_characters: fewer are too short.
    max_characters: more are too long.
  """

  min_characters: int = fields.number(200, at_least=0)
  max_characters: int = fields.number(
    0, at_least=0, note='0: no document is too long'
  )

  def __post_init__(self):
    super().__post_init__()
    if self.max_characters:
      base.need_order(
        'length',
        ('min_characters', self.min_characters),
        ('max_characters', self.max_characters),
      )

  def examine(self, text: str) -> str:
    if len(text) < self.min_characters:
      return 'min_characters'
    if self.max_characters and len(text) > self.max_characters:
      return 'max_characters'
    return ''
