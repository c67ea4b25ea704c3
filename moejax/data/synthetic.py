"""Generated rows that a model can learn: for benchmarks and tests.

A row is a pure function of (split, index), so there is no limit to their number
and none is stored. The loader reads them as it reads a cache.
"""

import dataclasses
from typing import Any

import numpy as np

from moejax.data import batch as batch_lib
from moejax.data import features, shuffle

_FIRST_ID = 3  # after padding, EOS and unknown


@dataclasses.dataclass(frozen=True)
class Synthetic:
  """Rows of two documents each, in which ids count upwards.

  A document starts at a random id and counts up by one, wrapping after
  `period` ids; one target in eight is a random id instead. The first document
  ends in EOS. The best prediction is the previous id plus one, and a model that
  has learned this has a loss near log(period) / 8 + 0.4 nats.

  Example, L=8, without noise:
    target   [7, 8, 9, 1, 8, 9, 10, 11]
    segment  [1, 1, 1, 1, 2, 2, 2, 2]

  Attributes:
    length: L, at least 2.
    vocab_size: larger than all ids.
    eos_id: ends the first document.
    num_rows: number of rows.
    seed: determines the rows.
    first_id: the id that the model reads at the start of every segment.
    num_bytes: 0, since there is no text.
    fingerprint: a constant; everything the rows depend on is in the config.
    contents: the same constant.
  """

  length: int
  vocab_size: int
  eos_id: int = 1
  num_rows: int = 2**40
  seed: int = 0
  first_id: int = 0

  num_bytes = 0
  fingerprint = contents = 'synthetic'

  @property
  def num_tokens(self) -> int:
    """Targets of all rows; none is padding."""
    return self.num_rows * self.length

  @property
  def period(self) -> int:
    """Number of ids that are counted before the count wraps."""
    return min(256, self.vocab_size - _FIRST_ID)

  def rows(self, index_N: np.ndarray) -> features.Rows:
    """The rows at these indices; target_NL and segment_NL are int64."""
    index_N1 = np.asarray(index_N)[:, None]
    length, period = self.length, self.period
    position_L = np.arange(length)
    cut_N1 = shuffle.key(self.seed, 0, index_N1) % np.uint64(length - 1)
    second_NL = position_L > cut_N1.astype(np.int64)
    start_NL = shuffle.key(self.seed, 1, index_N1, second_NL) % np.uint64(
      period
    )
    chance_NL = shuffle.key(self.seed, 2, index_N1, position_L)
    count_NL = (start_NL.astype(np.int64) + position_L) % period
    other_NL = ((chance_NL >> np.uint64(3)) % np.uint64(period)).astype(int)
    noisy_NL = chance_NL % np.uint64(8) == 0
    target_NL = _FIRST_ID + np.where(noisy_NL, other_NL, count_NL)
    last_NL = position_L == cut_N1.astype(np.int64)
    return features.Rows(
      np.where(last_NL, self.eos_id, target_NL), 1 + second_NL.astype(int)
    )

  def batch(
    self, step: int, batch_size: int, rows: slice | None = None
  ) -> batch_lib.Batch:
    """Rows step * B and following as a batch, or some of them."""
    index_B = step * batch_size + np.arange(batch_size)[rows or slice(None)]
    return features.expand(*self.rows(index_B), self.first_id)


@dataclasses.dataclass(frozen=True)
class SyntheticTask:
  """The task 'synthetic', which has no text and therefore no cache."""

  name = 'synthetic'
  domain = 'synthetic'
  splits = ('train', 'validation')
  has_text = False

  def rows(self, split: str, request: Any) -> Synthetic:
    """The rows of a split: 2**40 for training, 64 for validation."""
    sizes = {'train': 2**40, 'validation': 64}
    return Synthetic(
      length=request.length,
      vocab_size=request.vocab.size,
      eos_id=max(request.vocab.eos_id, 0),  # vocab.Ids may have none
      num_rows=sizes[split],
      seed=self.splits.index(split),
      first_id=request.vocab.first_id,
    )
