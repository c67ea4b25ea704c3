"""Constants that multiply parts of a model (Granite; muP, arXiv 2203.03466)."""

import dataclasses

from moejax.core import fields


@dataclasses.dataclass(frozen=True)
class Scales(fields.Checked):
  """Constants, not weights; the defaults change nothing.

  Attributes:
    embedding: factor of the embeddings; a head that is tied to them is not
      multiplied.
    residual: factor of the outputs of attention and feed-forward before they
      are added to the residual stream.
    scores: factor of attention's scores; 0 means head_dim^-0.5.
    logits: divisor of the logits.
  """

  embedding: float = fields.number(1.0, above=0, at_most=1e6)
  residual: float = fields.number(1.0, above=0, at_most=1e6)
  scores: float = fields.number(
    0.0, at_least=0, at_most=1e6, note='0: head_dim^-0.5'
  )
  logits: float = fields.number(1.0, above=0, at_most=1e6)
