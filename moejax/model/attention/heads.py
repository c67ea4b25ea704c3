"""HEADS: kinds of attention heads, and the sizes that follow from each kind.

Configs, caches and parameter counts use these sizes. The modules that compute
are in `grouped.py` and `latent.py`, joined to the kinds by `block.ATTENTIONS`.
"""

import dataclasses
from typing import Any

from moejax.core import errors, fields

QK_NORMS = ('none', 'head', 'width')


@dataclasses.dataclass(frozen=True)
class Grouped:
  """Multi-head and grouped-query attention (arXiv 2305.13245).

  Every key-value head serves model.num_heads / model.num_kv_heads query heads.
  """

  def check(self, model: Any) -> None:
    """Raises InputError if the model's sizes do not fit."""
    model.rope.rotary_dim(model.head_dim)

  def rotary_dim(self, model: Any) -> int:
    """Features of a query head that rotary positions rotate."""
    return model.rope.rotary_dim(model.head_dim)

  def slots(self, model: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """(heads, width) of a token's keys and of its values in a cache."""
    return (model.kv_heads, model.head_dim), (model.kv_heads, model.head_dim)

  def widths(self, model: Any) -> int:
    """Features of one head's query plus those of its value."""
    return 2 * model.head_dim

  def shrunk(self) -> 'Grouped':
    """The same for a model that is shrunk to a laptop's."""
    return self


@dataclasses.dataclass(frozen=True)
class Latent(fields.Checked):
  """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

  Keys and values are made from one latent vector per token, and one key with
  rotary positions that all heads share. A cache holds only these two. A query
  has `model.head_dim` features without positions and `rope_dim` with them.

  Attributes:
    kv_rank: width of the latent vector of keys and values.
    q_rank: width of a latent vector from which queries are made; 0 makes them
      from the activations.
    rope_dim: number of features of a query, and of the shared key, with rotary
      positions.
    value_dim: width of a value.
    norm_eps: constant added to the mean square in the norms of the latent
      vectors; 0 means `model.norm_eps`. The released DeepSeek models have 1e-6
      for these and for all other norms; Moonlight and GLM-4.7-Flash have 1e-5
      for the others.
  """

  kv_rank: int = fields.number(512, at_least=1)
  q_rank: int = fields.number(0, at_least=0, note='0: none')
  rope_dim: int = fields.number(64, at_least=1)
  value_dim: int = fields.number(128, at_least=1)
  norm_eps: float = fields.number(
    0.0, at_least=0, at_most=1, note='0: model.norm_eps'
  )

  def check(self, model: Any) -> None:
    """Raises InputError if the model's sizes do not fit."""
    if self.rope_dim % 2:
      raise errors.InputError(
        f'model.heads.rope_dim={self.rope_dim} must be even: rotary positions '
        'rotate pairs of features'
      )
    model.rope.scaling.check(self.rope_dim)
    off = {
      'num_kv_heads': model.kv_heads == model.num_heads,
      'rope.share': model.rope.share == 1,
      'qk_norm': model.qk_norm == 'none',
      'scales.scores': not model.scales.scores,
      'sinks': not model.sinks,
      'windows': not any(model.windows),
      'qkv_bias': not model.qkv_bias,
      'out_bias': not model.out_bias,
    }
    wrong = [f'model.{name}' for name, is_off in off.items() if not is_off]
    if wrong:
      raise errors.InputError(
        f'model.heads=latent does not go with {", ".join(wrong)}; leave that '
        'at its default'
      )

  def rotary_dim(self, model: Any) -> int:
    """Features of a query head that rotary positions rotate."""
    del model
    return self.rope_dim

  def slots(self, model: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """(heads, width) of a token's keys and of its values in a cache.

    The keys' array holds the latent vector and then the shared key. Values take
    no memory, because they are made from the latent vector.
    """
    del model
    return (1, self.kv_rank + self.rope_dim), (1, 0)

  def widths(self, model: Any) -> int:
    """Features of one head's query plus those of its value."""
    return model.head_dim + self.rope_dim + self.value_dim

  def shrunk(self) -> 'Latent':
    """The same for a model that is shrunk to a laptop's."""
    return Latent(
      min(self.kv_rank, 32), min(self.q_rank, 32), 8, 16, self.norm_eps
    )


# name in a config -> the class
HEADS = {'grouped': Grouped, 'latent': Latent}
