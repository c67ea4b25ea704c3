"""Baselines without a model: unigram frequencies and xz, for each domain.

Both predict or compress the validation text of a domain after learning from its
training text. A report prints them beside the model's loss.
"""

import contextlib
import dataclasses
import itertools
import json
import lzma
import math
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent import futures
from typing import Any

import numpy as np

from moejax.core import files
from moejax.data import cache, long_text, xz_sizes

_ROWS = 4096
_LARGEST_TEXT = 2**25  # bytes; xz takes about a second for every 1.5 MB


@dataclasses.dataclass(frozen=True)
class Domain:
  """One domain of a run: a text and its packed rows.

  Attributes:
    task: the source of the text: an entry of `tasks.TASKS`, or `files.Files`.
    rate: sampling rate of its rows, relative to the other domains.
    vocab_size: size of the vocabulary, larger than all ids.
    train: rows to train on.
    validation: held-out rows.
    max_documents: limit on the documents of each split; 0 means no limit.
  """

  task: Any
  rate: float
  vocab_size: int
  train: cache.RowReader
  validation: cache.RowReader
  max_documents: int = 0


@dataclasses.dataclass(frozen=True)
class Baselines:
  """Baselines of the validation text of one domain.

  Attributes:
    unigram_nats: cross-entropy, in nats per target, of predicting every token
      by its frequency in the training text.
    unigram_bits_per_byte: the same in bits per byte of text.
    xz_bits_per_byte: compressed bits that the validation text adds to the
      training text under xz -9, per byte of validation text; nan where the
      training text is over 32 MB or cannot be read again.
  """

  unigram_nats: float
  unigram_bits_per_byte: float
  xz_bits_per_byte: float


def compute(domains: Mapping[str, Domain]) -> dict[str, Baselines | None]:
  """The baselines of every domain by name; None for a domain without text.

  Two domains are computed at a time. The results are kept beside the validation
  rows, so a second call only reads them.
  """
  # xz runs in processes of its own.
  with futures.ThreadPoolExecutor(2) as pool:
    results = list(pool.map(_of_domain, domains.values()))
  return dict(zip(domains, results, strict=True))


def _of_domain(domain: Domain) -> Baselines | None:
  train, validation = domain.train, domain.validation
  if not domain.task.has_text:
    return None
  if not isinstance(train, cache.RowCache):
    return None
  if not isinstance(validation, cache.RowCache):
    return None
  # The name holds everything the result depends on, except the folder.
  name = f'baselines-{train.path.name}-{domain.max_documents}.json'
  kept = validation.path / name
  # A truncated file (from a full disk, say) is computed again.
  with contextlib.suppress(OSError, ValueError, TypeError):
    return Baselines(**json.loads(kept.read_text()))
  nats = unigram_nats(train, validation, domain.vocab_size)
  tokens_per_byte = validation.num_tokens / validation.num_bytes
  result = Baselines(
    unigram_nats=nats,
    unigram_bits_per_byte=nats / math.log(2) * tokens_per_byte,
    xz_bits_per_byte=_xz(domain),
  )
  with contextlib.suppress(OSError):  # the cache may be read-only
    files.atomic_write_text(kept, json.dumps(dataclasses.asdict(result)))
  return result


def _xz(domain: Domain) -> float:
  texts = [domain.task.texts(split) for split in ('train', 'validation')]
  if None in texts or domain.train.num_bytes > _LARGEST_TEXT:
    return math.nan
  # The documents beyond the limit are not in the rows either.
  limit = domain.max_documents or None
  return xz_bits_per_byte(
    *(map(long_text.whole, itertools.islice(text, limit)) for text in texts)
  )


def unigram_nats(
  train: cache.RowReader, validation: cache.RowReader, vocab_size: int
) -> float:
  """Cross-entropy of validation targets under training frequencies, in nats.

  One is added to every count (Laplace smoothing), so that no token has
  probability zero. Only the first 2**20 rows are counted: more of them would
  not change the frequencies noticeably.

  Example, three ids, trained on 1 1 2, validated on 1 2:
    probabilities (0 + 1, 2 + 1, 1 + 1) / 6
    (-log(3 / 6) - log(2 / 6)) / 2
  """
  count_V = _counts(train, vocab_size) + 1
  log_prob_V = np.log(count_V / count_V.sum())
  target_V = _counts(validation, vocab_size)
  return float(-(target_V * log_prob_V).sum() / max(1, int(target_V.sum())))


def _counts(reader: cache.RowReader, vocab_size: int) -> np.ndarray:
  count_V = np.zeros(vocab_size, np.int64)
  num_rows = min(reader.num_rows, 2**20)
  for start in range(0, num_rows, _ROWS):
    index_N = np.arange(start, min(start + _ROWS, num_rows))
    target_NL, segment_NL = reader.rows(index_N)
    real_M = target_NL[(segment_NL != 0) & (target_NL >= 0)]
    count_V += np.bincount(real_M, minlength=vocab_size)
  return count_V


def xz_bits_per_byte(train: Iterable[str], validation: Iterable[str]) -> float:
  """Bits that xz needs for the validation text once it knows the training text.

  It is 8 * (size of both texts - size of the training text) / bytes of the
  validation text, with sizes in bytes under `xz -9`.
  """
  before = ''.join(train).encode()
  after = ''.join(validation).encode()
  shorter, longer = _xz_sizes(before, after)
  return 8 * (longer - shorter) / max(1, len(after))


def _xz_sizes(before: bytes, after: bytes) -> tuple[int, int]:
  """Bytes of `before` and of `before + after` under `xz -9`.

  Its dictionary of 64 MB takes 0.7 GB of memory. For a shorter text a
  dictionary as long as the text is enough, and gives the same size.

  A process that is copied between the two texts compresses the first of them
  once. Where it cannot be started, or does not print the sizes, this process
  compresses both.
  """
  both = before + after
  dictionary = min(2**26, 1 << max(12, len(both).bit_length()))
  source = pathlib.Path(xz_sizes.__file__).read_text()
  arguments = json.dumps([len(before), dictionary]).encode()
  try:
    ended = subprocess.run(
      [sys.executable, '-I', '-S', '-c', source],
      input=arguments + b'\n' + both,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      check=True,
    )
    shorter, longer = json.loads(ended.stdout)
  except (OSError, ValueError, subprocess.SubprocessError):
    size = lambda data: len(
      lzma.compress(data, filters=xz_sizes.filters(dictionary))
    )
    return size(before), size(both)
  return shorter, longer
