"""Constants that multiply parts of a model (Granite; muP, arXiv 2203.03466)."""

import dataclasses

from moejax.core import fields


@dataclasses.dataclass(frozen=True)
class Scales(fields.Checked):
  """Numbers of a config, not weights; the defaults change nothing.

  Attributes:
    embedding: embeddings are multiplied by it; not the head, where it is tied.
    residual: the outputs of attention and feed-forward are multiplied by it,
      before they are added.
    scores: attention's scores are multiplied by it; 0: by head_dim^-0.5.
    logits: logits are divided by it.
  """

  embedding: float = fields.number(1.0, above=0, at_most=1e6)
  residual: float = fields.number(1.0, above=0, at_most=1e6)
  scores: float = fields.number(
    0.0, at_least=0, at_most=1e6, note='0: head_dim^-0.5'
  )
  logits: float = fields.number(1.0, above=0, at_most=1e6)
