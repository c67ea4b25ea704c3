"""Documents to token ids on all cores, in the order of the text.

The calling process reads the text and packs it; worker processes encode it. A
worker is a Python that imports the vocabulary and nothing of JAX, and that gets
jobs and returns ids through pipes. It is started as a command of its own, so
that neither a fork of a process with JAX's threads nor a second import of the
user's main script is needed. A worker ends when its pipe is closed, and so
outlives no calling process, not even a killed one.

The ids and their order do not depend on the number of workers: jobs are cut
from the text by its characters alone, and results are taken in the order of
the jobs.
"""

import collections
import contextlib
import dataclasses
import itertools
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np

from moejax.core import errors
from moejax.data import long_text
from moejax.data import vocab as vocabs
from moejax.data.seqio_bridge import Document

Text = str | long_text.LongText
JOB = 2**18  # characters of a job, about
_ALONE = 2**22  # characters that are encoded before workers are started
_JOBS_PER_WORKER = 4  # that are under way at a time
# Each worker has one core: tokenizers would start a thread for every core.
_ONE_THREAD = {'RAYON_NUM_THREADS': '1', 'TOKENIZERS_PARALLELISM': 'false'}
_BOOTSTRAP = (
  'import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); '
  'from moejax.data import encoding; encoding.serve()'
)


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


def cores() -> int:
  """The number of cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


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
  processes = processes or cores()
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
    if left <= 0 and processes > 1 and _can_be_sent(vocab):
      break
  else:
    return
  with _workers(vocab, processes) as submit:
    pending: collections.deque[tuple[_Job, futures.Future]] = (
      collections.deque()
    )
    for job in jobs:
      pending.append((job, submit(job)))
      if len(pending) >= _JOBS_PER_WORKER * processes:
        job, future = pending.popleft()
        yield job, future.result()
    for job, future in pending:
      yield job, future.result()


def _can_be_sent(vocab: vocabs.Vocab) -> bool:
  """Whether a worker can import the class of a vocabulary."""
  return type(vocab).__module__ != '__main__'


@contextlib.contextmanager
def _workers(vocab: vocabs.Vocab, processes: int) -> Iterator[Any]:
  """Starts workers; gives a function from a job to the future of its ids."""
  idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
  workers: list[_Worker] = []

  def encode(job: _Job) -> list[np.ndarray]:
    worker = idle.get()
    try:
      return worker.encode(job)
    finally:
      idle.put(worker)

  threads = futures.ThreadPoolExecutor(processes, 'moejax-encoding')
  try:
    for _ in range(processes):
      workers.append(_Worker(vocab))
      idle.put(workers[-1])
    yield lambda job: threads.submit(encode, job)
  finally:
    # First the workers: their threads then stop waiting for them.
    for worker in workers:
      worker.kill()
    threads.shutdown(cancel_futures=True)


class _Worker:
  """A process that encodes; used by one thread at a time."""

  def __init__(self, vocab: vocabs.Vocab):
    self._process = subprocess.Popen(
      [sys.executable, '-c', _BOOTSTRAP],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      env={**os.environ, **_ONE_THREAD},
      start_new_session=True,  # Ctrl-C is for the calling process
    )
    # The fields alone: a loaded tokenizer may lose settings when it is sent.
    self._first: list[Any] = [sys.path, dataclasses.replace(vocab)]

  def encode(self, job: _Job) -> list[np.ndarray]:
    """The ids of a job.

    Raises:
      InputError: the process has ended.
    """
    assert self._process.stdin
    assert self._process.stdout
    try:
      for value in (*self._first, job):
        pickle.dump(value, self._process.stdin, pickle.HIGHEST_PROTOCOL)
      self._process.stdin.flush()
      self._first = []
      result = pickle.load(self._process.stdout)
    except (OSError, EOFError, pickle.UnpicklingError):
      code = self._process.wait()
      how = f'code {code}' if code >= 0 else signal.Signals(-code).name
      raise errors.InputError(
        f'a process that encodes text ended early ({how}), as when memory runs '
        'out: run again with fewer --processes of moejax.cli.cache; finished '
        'shards are kept'
      ) from None
    if isinstance(result, Exception):
      raise result
    flat_T, ends_N = result
    return np.split(flat_T, ends_N)[:-1]

  def kill(self) -> None:
    """Ends the process, whatever it does."""
    self._process.kill()
    self._process.wait()
    for pipe in (self._process.stdin, self._process.stdout):
      with contextlib.suppress(OSError):
        if pipe:
          pipe.close()


def serve() -> None:
  """A worker: reads a vocabulary and then jobs from stdin, until its end."""
  jobs, results = sys.stdin.buffer, os.fdopen(os.dup(1), 'wb')
  os.dup2(2, 1)  # what libraries print is no result
  # A closed pipe ends a message anywhere.
  with contextlib.suppress(EOFError, BrokenPipeError, pickle.UnpicklingError):
    vocab = pickle.load(jobs)
    while True:
      pickle.dump(
        _served(pickle.load(jobs), vocab), results, pickle.HIGHEST_PROTOCOL
      )
      results.flush()
  os._exit(0)  # without a word about a closed pipe


def _served(job: _Job, vocab: Any) -> Any:
  """All ids of a job end to end and where each text ends, or an exception."""
  try:
    ids = _encode(job, _OneByOne(vocab))
  except Exception as e:  # noqa: BLE001 (it is raised in the calling process)
    return e
  flat_T = np.concatenate([np.zeros(0, np.int32), *ids])
  return flat_T, np.cumsum([len(ids_T) for ids_T in ids], dtype=np.int64)


class _OneByOne:
  """A vocabulary whose batches are encoded on one thread."""

  def __init__(self, vocab: vocabs.Vocab):
    self._vocab = vocab

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    return [self._vocab.encode(text) for text in texts]
