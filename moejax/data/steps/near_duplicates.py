"""Removes documents that are almost the same as an earlier one."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from moejax.core import fields
from moejax.data import seqio_bridge
from moejax.data.steps import base, exact_duplicates

_CHANCE = 0.95  # that a pair exactly at the threshold is compared

# Units of which shingles are made. Text without spaces between words, such as
# Chinese, needs characters.
UNITS: Mapping[str, Callable[[str], list[str]]] = {
  'words': re.compile(r'\w+').findall,
  'characters': list,
}


@dataclasses.dataclass(frozen=True)
class NearDuplicates(base.Step):
  """Keeps the first of the documents whose sets of shingles are similar.

  A shingle is `size` consecutive units of the normalised text. The similarity
  of two documents is the Jaccard similarity of their sets of shingles: shared
  shingles over all shingles. It is estimated by MinHash: the share of
  `num_hashes` hash functions that have the same minimum over both sets. A
  document is removed if the estimate for it and an earlier document that was
  kept is at least `threshold`.

  Only documents that share a band of minima are compared (locality-sensitive
  hashing). The bands are so short that a pair at the threshold is compared with
  a chance of 95%, and a more similar pair with a higher one.

  Source: Broder, 1997; Lee et al., 2021 (arXiv 2107.06499), section 4.2. It
  needs datasketch, which the extra `near_duplicates` installs. The minima take
  4 * num_hashes bytes of memory for each document kept, and the library's index
  some kilobytes more.

  Attributes:
    threshold: least similarity at which a document is removed.
    num_hashes: hash functions; the estimate's standard deviation is
      sqrt(s * (1 - s) / num_hashes) at similarity s.
    size: units in a shingle.
    unit: an entry of UNITS.
    seed: determines the hash functions.
  """

  threshold: float = fields.number(0.8, above=0, at_most=1)
  num_hashes: int = fields.number(128, at_least=2, at_most=4096)
  size: int = fields.number(5, at_least=1, at_most=1000)
  unit: str = fields.named(UNITS, 'words')
  seed: int = fields.number(1, at_least=0)

  def shingles(self, text: str) -> set[str]:
    """The shingles of a text; a text too short for one is a shingle itself."""
    units = UNITS[self.unit](exact_duplicates.normalised(text))
    count = max(1, len(units) - self.size + 1)
    return {' '.join(units[at : at + self.size]) for at in range(count)}

  def examine(self, text: str) -> np.ndarray:
    """The minima of the document, as uint32."""
    sketch = _empty(self.num_hashes, self.seed).copy()
    sketch.update_batch([s.encode() for s in self.shingles(text)])
    return sketch.hashvalues

  def judge(self) -> Callable[[np.ndarray], str]:
    bands, rows = num_bands(self.threshold, self.num_hashes)
    index = _datasketch().MinHashLSH(
      num_perm=self.num_hashes, params=(bands, rows)
    )
    kept: list[np.ndarray] = []
    empty = _empty(self.num_hashes, self.seed)

    def decide(minima: np.ndarray) -> str:
      sketch = empty.copy()
      sketch.hashvalues = minima
      for number in index.query(sketch):
        equal = np.count_nonzero(kept[number] == minima)
        if equal >= self.threshold * self.num_hashes:
          return 'near_duplicate'
      index.insert(len(kept), sketch, check_duplication=False)
      kept.append(minima)
      return ''

    return decide


def num_bands(threshold: float, num_hashes: int) -> tuple[int, int]:
  """The number of bands and the minima in each, for `NearDuplicates`.

  A pair of similarity s shares a band of r minima with probability s ** r, and
  one of b bands with 1 - (1 - s ** r) ** b. The longest bands are taken with
  which this is at least 95% at the threshold: the longer they are, the fewer
  dissimilar pairs are compared.

  Example:
    (0.8, 128)  (18, 7), where the probability is 0.986
  """
  for rows in range(num_hashes // 2, 1, -1):
    bands = num_hashes // rows
    if 1 - (1 - threshold**rows) ** bands >= _CHANCE:
      return bands, rows
  return num_hashes, 1


def _datasketch() -> Any:
  instead = 'leave the step out: data.steps.near_duplicates=off'
  with seqio_bridge.needed(
    'data.steps.near_duplicates', "'datasketch>=2'", instead
  ):
    import datasketch

    return datasketch


@functools.cache
def _empty(num_hashes: int, seed: int) -> Any:
  """A sketch without shingles, from which others are copied.

  The scheme is named, so that a later version of the library computes the same.
  """
  return _datasketch().MinHash(
    num_perm=num_hashes, seed=seed, scheme='affine32'
  )
