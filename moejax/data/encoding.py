"""Documents to token ids on all cores, in the order of the text.

The calling process reads the text and packs it; worker processes encode it
(`workers`). The ids and their order do not depend on the number of workers:
jobs are cut from the text by its characters alone, and results are taken in the
order of the jobs.
"""

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from moejax.core import errors
from moejax.data import long_text, workers
from moejax.data import vocab as vocabs
from moejax.data.seqio_bridge import Document

Text = str | long_text.LongText
JOB = 2**18  # characters of a job, about
_ALONE = 2**22  # characters that are encoded before workers are started


class _Job(NamedTuple):
  """Texts that are encoded at once.

  Attributes:
    texts: whole documents, or consecutive pieces of one.
    contexts: the characters before each piece; None for whole documents.
    num_bytes: UTF-8 bytes of the document that begins with these pieces.
    ends: whether the document ends behind these pieces.
  """

  texts: Sequence[str]
  contexts: Sequence[str] | None = None
  num_bytes: int = 0
  ends: bool = False


def documents(
  texts: Iterable[Text], vocab: vocabs.Vocab, processes: int = 0
) -> Generator[Document]:
  """The texts as token ids, in their order.

  Args:
    texts: documents; a long one is encoded piece by piece.
    vocab: the tokenizer.
    processes: workers; 0 means one for each core, 1 that this process encodes.

  Raises:
    InputError: a worker ended before its work.
  """
  processes = processes or workers.cores()
  # Where this process encodes, the tokenizer has threads for larger jobs.
  jobs = _jobs(texts, vocab, JOB if processes > 1 else 4 * JOB)
  results = _results(jobs, vocab, processes)
  with contextlib.closing(results):
    for job, ids in results:
      if job.contexts is None:
        for text, ids_T in zip(job.texts, ids, strict=True):
          with_eos_T = np.append(ids_T, np.int32(vocab.eos_id))
          yield Document(with_eos_T, len(text.encode()))
      else:
        parts = _parts(job, ids, results, vocab.eos_id)
        yield Document(parts, job.num_bytes)
        collections.deque(parts, maxlen=0)  # to the end of the document


def checked(ids_T: np.ndarray, vocab: vocabs.Vocab, name: str) -> np.ndarray:
  """The ids of a text, if all are of the vocabulary.

  Raises:
    InputError: one is not; `name` is that of the text.
  """
  low, high = ids_T.min(), ids_T.max()
  least, size = vocab.least_id, vocab.size
  if low < least or high >= size:
    raise errors.InputError(
      f'{name}: token id {low if low < least else high} is outside the '
      f'vocabulary, whose ids are {least} to {size - 1}: set data.vocab to the '
      'one the ids were made with'
    )
  return ids_T


def _parts(
  job: _Job,
  ids: list[np.ndarray],
  results: Iterator[tuple[_Job, list[np.ndarray]]],
  eos_id: int,
) -> Iterator[np.ndarray]:
  """The ids of a long document, whose first job is given."""
  while True:
    # Some tokenizers drop whitespace at the end of a text.
    yield from (ids_T for ids_T in ids if len(ids_T))
    if job.ends:
      yield np.array([eos_id], np.int32)
      return
    job, ids = next(results)


def _jobs(
  texts: Iterable[Text], vocab: vocabs.Vocab, size: int
) -> Iterator[_Job]:
  """The texts as jobs of about `size` characters."""
  group: list[Any] = []
  chars = 0
  for text in texts:
    is_long = long_text.is_long(text)
    if not is_long:
      group.append(text)
      chars += len(group[-1])
    if group and (is_long or chars >= size):
      yield _Job(group)
      group, chars = [], 0
    if is_long:
      yield from _long_jobs(text, vocab, size)
  if group:
    yield _Job(group)


def _long_jobs(text: Text, vocab: vocabs.Vocab, size: int) -> Iterator[_Job]:
  """A long document as jobs, the last of which is empty."""
  num_bytes = long_text.num_bytes(text)
  pieces = long_text.pieces(long_text.chunks(text), vocab)
  per_job = max(1, size // long_text.PIECE)
  while group := list(itertools.islice(pieces, per_job)):
    contexts, texts = zip(*group, strict=True)
    yield _Job(texts, contexts, num_bytes)
  yield _Job([], [], num_bytes, ends=True)


def _encode(job: _Job, vocab: Any) -> list[np.ndarray]:
  """The ids of a job's texts, on the threads of the tokenizer."""
  if job.contexts is None:
    # Only whole documents are rearranged (`fill_in_middle`).
    encode = getattr(vocab, 'encode_documents', vocab.encode_batch)
    return [np.array(x, np.int32) for x in encode(job.texts)]
  return [
    np.array(x, np.int32)
    for x in long_text.encode_pieces(job.contexts, job.texts, vocab)
  ]


def _results(
  jobs: Iterator[_Job], vocab: vocabs.Vocab, processes: int
) -> Generator[tuple[_Job, list[np.ndarray]]]:
  """Each job with its ids, in the order of the jobs."""
  left = _ALONE
  for job in jobs:
    yield job, _encode(job, vocab)
    left -= sum(map(len, job.texts))
    if left <= 0 and processes > 1 and workers.can_be_sent(vocab):
      break
  else:
    return
  # The fields alone: a loaded tokenizer may lose settings when it is sent.
  work = _OneByOne(dataclasses.replace(vocab))
  results = workers.in_order(jobs, work, processes)
  with contextlib.closing(results):
    for job, (flat_T, ends_N) in results:
      yield job, np.split(flat_T, ends_N)[:-1]


class _OneByOne:
  """The work of a worker: a vocabulary whose batches it encodes on one thread.

  The result of a job is all its ids end to end, and where each text ends.
  """

  def __init__(self, vocab: vocabs.Vocab):
    self._vocab = vocab

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    return [self._vocab.encode(text) for text in texts]

  def __call__(self, job: _Job) -> tuple[np.ndarray, np.ndarray]:
    ids = _encode(job, self)
    flat_T = np.concatenate([np.zeros(0, np.int32), *ids])
    return flat_T, np.cumsum([len(ids_T) for ids_T in ids], dtype=np.int64)
