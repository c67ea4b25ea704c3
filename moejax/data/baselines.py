"""What a domain's text costs without a model: honest figures to stand beside.

Both are taken on the validation text of one domain, after learning from its
training text.
"""

import contextlib
import dataclasses
import itertools
import json
import lzma
import math
from collections.abc import Iterable, Mapping
from concurrent import futures
from typing import Any

import numpy as np

from moejax.core import files
from moejax.data import cache, long_text

_ROWS = 4096
_LARGEST_TEXT = 2**25  # bytes; xz takes about a second for every 1.5 MB


@dataclasses.dataclass(frozen=True)
class Domain:
  """A text and its rows.

  Attributes:
    task: where the text comes from, one of `tasks.TASKS` or `files.Files`.
    rate: how often a row is of it, relative to the other domains.
    vocab_size: larger than all ids.
    train: rows to train on.
    validation: rows held out.
    max_documents: at most so many of each split are in the rows; 0 is all.
  """

  task: Any
  rate: float
  vocab_size: int
  train: cache.RowReader
  validation: cache.RowReader
  max_documents: int = 0


@dataclasses.dataclass(frozen=True)
class Baselines:
  """Figures of one domain.

  Attributes:
    unigram_nats: mean loss, in nats per target, of always saying how often each
      token is.
    unigram_bits_per_byte: the same per byte of text.
    xz_bits_per_byte: what validation adds to the text that xz -9 compresses;
      nan where the training text is over 32 MB or cannot be read again.
  """

  unigram_nats: float
  unigram_bits_per_byte: float
  xz_bits_per_byte: float


def compute(domains: Mapping[str, Domain]) -> dict[str, Baselines | None]:
  """The baselines of every domain, two at a time; None without text.

  They are kept beside the validation rows, so a second call only reads them.
  """
  # xz runs outside Python's lock.
  with futures.ThreadPoolExecutor(2) as pool:
    found = list(pool.map(_of_domain, domains.values()))
  return dict(zip(domains, found, strict=True))


def _of_domain(domain: Domain) -> Baselines | None:
  if not domain.task.has_text:
    return None
  # Named by all that the result depends on beside the folder it lies in.
  name = f'baselines-{domain.train.path.name}-{domain.max_documents}.json'
  kept = domain.validation.path / name
  # What is not whole (of a disk that was full, say) is computed again.
  with contextlib.suppress(OSError, ValueError, TypeError):
    return Baselines(**json.loads(kept.read_text()))
  nats = unigram_nats(domain.train, domain.validation, domain.vocab_size)
  read = domain.validation
  result = Baselines(
    unigram_nats=nats,
    unigram_bits_per_byte=nats / math.log(2) * read.num_tokens / read.num_bytes,
    xz_bits_per_byte=_xz(domain),
  )
  with contextlib.suppress(OSError):  # the cache may be read-only
    files.atomic_write_text(kept, json.dumps(dataclasses.asdict(result)))
  return result


def _xz(domain: Domain) -> float:
  texts = [domain.task.texts(split) for split in ('train', 'validation')]
  if None in texts or domain.train.num_bytes > _LARGEST_TEXT:
    return math.nan
  # The same documents as are in the rows.
  last = domain.max_documents or None
  return xz_bits_per_byte(
    *(map(long_text.whole, itertools.islice(text, last)) for text in texts)
  )


def unigram_nats(
  train: cache.RowReader, validation: cache.RowReader, vocab_size: int
) -> float:
  """Cross-entropy of validation targets under training frequencies.

  One is added to every count (Laplace), so that no token is impossible. Rows
  past the first 2**20 add nothing that matters and are not counted.

  Example, three ids, trained on 1 1 2, validated on 1 2:
    probabilities (0 + 1, 2 + 1, 1 + 1) / 6
    (-log(3 / 6) - log(2 / 6)) / 2
  """
  count_V = _counts(train, vocab_size) + 1
  log_prob_V = np.log(count_V / count_V.sum())
  target_V = _counts(validation, vocab_size)
  return float(-(target_V * log_prob_V).sum() / max(1, target_V.sum()))


def _counts(reader: cache.RowReader, vocab_size: int) -> np.ndarray:
  count_V = np.zeros(vocab_size, np.int64)
  num_rows = min(reader.num_rows, 2**20)
  for start in range(0, num_rows, _ROWS):
    index_N = np.arange(start, min(start + _ROWS, num_rows))
    target_NL, segment_NL = reader.rows(index_N)
    real_M = target_NL[segment_NL != 0]
    count_V += np.bincount(real_M, minlength=vocab_size)
  return count_V


def xz_bits_per_byte(train: Iterable[str], validation: Iterable[str]) -> float:
  """8 * (xz -9 of both - xz -9 of train) / bytes of validation."""
  before = ''.join(train).encode()
  after = ''.join(validation).encode()
  longer = _xz_size(before + after)
  return 8 * (longer - _xz_size(before)) / max(1, len(after))


def _xz_size(data: bytes) -> int:
  """The size that `xz -9` gives.

  Its dictionary of 64 MB, for which it takes 0.7 GB, is cut to what holds all
  of a shorter text; that changes the memory and not the result.
  """
  dictionary = min(2**26, 1 << max(12, len(data).bit_length()))
  filters = [{'id': lzma.FILTER_LZMA2, 'preset': 9, 'dict_size': dictionary}]
  return len(lzma.compress(data, filters=filters))
