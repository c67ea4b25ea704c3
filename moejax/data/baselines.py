"""What a domain's text costs without a model: honest figures to stand beside.

Both are taken on the validation text of one domain, after learning from its
training text.
"""

import dataclasses
import json
import lzma
import math
import pathlib
from collections.abc import Callable, Iterable
from concurrent import futures

import numpy as np

from moejax.data import build, cache

_ROWS = 4096
_LARGEST_TEXT = 2**25  # bytes; xz takes about a second for every 1.5 MB


@dataclasses.dataclass(frozen=True)
class Baselines:
  """Figures of one domain.

  Attributes:
    unigram_nats: mean loss, in nats per target, of always saying how often each
      token is.
    unigram_bits_per_byte: the same per byte of text.
    xz_bits_per_byte: what validation adds to the text that xz -9 compresses;
      None where the text is too long or there is none.
  """

  unigram_nats: float
  unigram_bits_per_byte: float
  xz_bits_per_byte: float | None


def compute(
  data: build.Data, report: Callable[[str], None] = lambda _: None
) -> dict[str, Baselines]:
  """The baselines of every domain, two at a time.

  They are kept beside the validation rows, so a second call only reads them.

  Args:
    data: what was built.
    report: called with the name of each domain when it is done.
  """
  found = {}
  # Two, for xz -9 takes up to 0.7 GB each; it runs outside Python's lock.
  with futures.ThreadPoolExecutor(2) as pool:
    jobs = {
      pool.submit(_of_domain, domain, data.vocab.size): domain.name
      for domain in data.domains
    }
    for job in futures.as_completed(jobs):
      found[jobs[job]] = job.result()
      report(jobs[job])
  return {domain.name: found[domain.name] for domain in data.domains}


def _of_domain(domain: build.Domain, vocab_size: int) -> Baselines:
  kept = _kept_at(domain)
  if kept is not None and kept.exists():
    return Baselines(**json.loads(kept.read_text()))
  nats = unigram_nats(domain.train, domain.validation, vocab_size)
  texts = None
  if domain.train.num_bytes <= _LARGEST_TEXT:
    texts = domain.task.texts('train')
  result = Baselines(
    unigram_nats=nats,
    unigram_bits_per_byte=cache.bits_per_byte(domain.validation, nats),
    xz_bits_per_byte=None
    if texts is None
    else xz_bits_per_byte(texts, domain.task.texts('validation')),
  )
  if kept is not None:
    part = kept.with_name(kept.name + '.new')
    part.write_text(json.dumps(dataclasses.asdict(result)))
    part.rename(kept)
  return result


def _kept_at(domain: build.Domain) -> pathlib.Path | None:
  """Named by both caches, for the result depends on both."""
  if not isinstance(domain.validation, cache.Cache):
    return None
  trained_on = domain.train.path.name
  return domain.validation.path / f'baselines-{trained_on}.json'


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
  if not after:
    return math.nan
  longer = len(lzma.compress(before + after, preset=9))
  return 8 * (longer - len(lzma.compress(before, preset=9))) / len(after)
