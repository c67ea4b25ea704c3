"""The only imports of TensorFlow and SeqIO, which happen when first needed.

Importing them takes about nine seconds and 0.7 GB of memory. A run whose rows
are cached never does.
"""

import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import numpy as np

from moejax.core import errors

# What installs both.
EXTRA = "'moejax[seqio]'"


class Document(NamedTuple):
  """A document as token ids.

  Attributes:
    ids_T: token ids, the last of which is EOS; in pieces if it is long.
    num_bytes: UTF-8 size of its text.
  """

  ids_T: np.ndarray | Iterator[np.ndarray]
  num_bytes: int


def load(purpose: str) -> tuple[Any, Any]:
  """The modules `seqio` and `tensorflow`, kept off accelerators.

  Args:
    purpose: what needs them, for the error.

  Raises:
    InputError: they are not installed.
  """
  if sys.modules.get('seqio'):
    return sys.modules['seqio'], sys.modules['tensorflow']
  instead = 'copy the cache from a machine that has them'
  with needed(purpose, 'SeqIO and TensorFlow', instead, EXTRA), quiet():
    import seqio
    import tensorflow as tf

    # TensorFlow would otherwise reserve the memory of a GPU that JAX needs. It
    # refuses once it has used the GPU; by then it has reserved the memory.
    with contextlib.suppress(RuntimeError):
      tf.config.set_visible_devices([], 'GPU')
  return seqio, tf


@contextlib.contextmanager
def needed(
  purpose: str, packages: str, instead: str, install: str = ''
) -> Iterator[None]:
  """Turns an ImportError in the block into one line for the user.

  Example:
    data.vocab.name=sentencepiece needs sentencepiece, which cannot be imported
    here (No module named 'sentencepiece'): pip install sentencepiece, or set
    data.vocab.name=bytes

  Args:
    purpose: what needs the packages.
    packages: their names, as pip takes them.
    instead: another way out.
    install: what pip installs, if not `packages`.

  Raises:
    InputError: the block raised an ImportError.
  """
  try:
    yield
  except ImportError as e:
    reason = (str(e) or type(e).__name__).splitlines()[0]
    raise errors.InputError(
      f'{purpose} needs {packages}, which cannot be imported here ({reason}): '
      f'pip install {install or packages}, or {instead}'
    ) from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Hides what the block writes to stderr, unless it raises.

  TensorFlow's C++ code logs to file descriptor 2 before it reads any setting,
  so the descriptor itself is redirected.
  """
  sys.stderr.flush()
  with tempfile.TemporaryFile() as sink:
    kept = os.dup(2)
    os.dup2(sink.fileno(), 2)
    failed = True
    try:
      yield
      failed = False
    finally:
      os.dup2(kept, 2)
      os.close(kept)
      if failed:
        sink.seek(0)
        os.write(2, sink.read())


def documents(
  task: Any, split: str, skip: int, hint: str = ''
) -> Generator[Document]:
  """The documents of a seqio.Task from number `skip` on, in a fixed order.

  It equals `task.get_dataset(sequence_length=None, shuffle=False,
  trim_output_features=False)`, except that documents are skipped before they
  are tokenised. With a `sequence_length`, Task.get_dataset would trim every
  long document; the packer needs documents whole. The task's preprocessors must
  turn each example into exactly one.

  Args:
    task: a seqio.Task, as `task` makes it.
    split: 'train' or 'validation'.
    skip: number of documents to leave out at the start.
    hint: advice for the user if the split cannot be read.

  Raises:
    InputError: the source cannot be read; one line with TensorFlow's reason.
  """
  _, tf = load(task.name)
  try:
    with quiet():
      dataset = _source(task, split, hint).skip(skip)
      dataset = task.preprocess_precache(dataset)
      dataset = task.preprocess_postcache(dataset, sequence_length=None)
      examples = dataset.prefetch(16).as_numpy_iterator()
      first = next(examples, None)  # the tokenizer is loaded here
    if first is None:
      return
    yield Document(first['targets'], int(first['num_bytes']))
    for example in examples:
      yield Document(example['targets'], int(example['num_bytes']))
  except (tf.errors.OpError, OSError) as e:
    raise unreadable(task.name, split, hint, e) from e


def texts(task: Any, split: str, hint: str = '') -> Generator[str]:
  """The documents of a seqio.Task as text, in the same order.

  Args:
    task: a seqio.Task, as `task` makes it.
    split: 'train' or 'validation'.
    hint: advice for the user if the split cannot be read.

  Raises:
    InputError: the source cannot be read, or a document is not UTF-8.
  """
  _, tf = load(task.name)
  number = 0
  try:
    with quiet():
      dataset = task.preprocessors[0](_source(task, split, hint))
    for example in dataset.prefetch(16).as_numpy_iterator():
      number += 1
      yield example['targets'].decode()
  except UnicodeDecodeError as e:
    raise errors.InputError(
      f'document {number:,} of the split {split!r} of {task.name} is not '
      f'UTF-8: {e.reason} at byte {e.start}'
    ) from None
  except (tf.errors.OpError, OSError) as e:
    raise unreadable(task.name, split, hint, e) from e


def num_documents(task: Any, split: str, hint: str = '') -> int | None:
  """The documents of a split of a seqio.Task; None if its source has no number.

  Raises:
    InputError: the source cannot be read; one line with TensorFlow's reason.
  """
  try:
    with quiet():
      return task.source.num_input_examples(split)
  except errors.InputError:
    raise
  except Exception as e:
    raise unreadable(task.name, split, hint, e) from e


def _source(task: Any, split: str, hint: str) -> Any:
  try:
    return task.source.get_dataset(split=split, shuffle=False)
  except errors.InputError:
    raise
  except Exception as e:
    raise unreadable(task.name, split, hint, e) from e


def unreadable(
  name: str, split: str, hint: str, e: Exception
) -> errors.InputError:
  """The error that a split of a text cannot be read, with the reason."""
  reason = (str(e).strip() or type(e).__name__).splitlines()[0]
  hint = f'; {hint}' if hint else ''
  return errors.InputError(
    f'the split {split!r} of {name} cannot be read: {reason}{hint}'
  )


def task(name: str, source: Any, vocab: Any, text: Callable) -> Any:
  """A seqio.Task with whole documents as `targets` and their `num_bytes`.

  It is not added to SeqIO's global registry. If SeqIO itself reads it with a
  sequence_length, long documents are split, not trimmed.

  Args:
    name: the task's name.
    source: a seqio.DataSource.
    vocab: one of `vocab.VOCABS`.
    text: a preprocessor from the source's rows to `as_targets` rows.
  """
  seqio, tf = load(name)
  feature = seqio.Feature(vocab.to_seqio(), add_eos=True, dtype=tf.int32)
  tokenize = functools.partial(
    seqio.preprocessors.tokenize, copy_pretokenized=False
  )
  return seqio.Task(
    name,
    source=source,
    output_features={'targets': feature},
    preprocessors=[text, tokenize, seqio.preprocessors.append_eos, split_long],
  )


def as_targets(text: Any) -> dict[str, Any]:
  """A scalar string tensor as an example: the text and its UTF-8 bytes."""
  _, tf = load('a text preprocessor')
  return {'targets': text, 'num_bytes': tf.strings.length(text, unit='BYTE')}


def split_long(dataset: Any, sequence_length: Any = None) -> Any:
  """Cuts documents that are longer than sequence_length['targets'].

  SeqIO trims longer examples after the last preprocessor; as the last one this
  leaves it nothing to trim. The bytes of a document stay with its first part.

  Example, sequence_length={'targets': 2}:
    {'targets': [5, 8, 1], 'num_bytes': 4}
    {'targets': [5, 8], 'num_bytes': 4}, {'targets': [1], 'num_bytes': 0}
  """
  if sequence_length is None:
    return dataset
  _, tf = load('split_long')
  length = sequence_length['targets']

  def cut(example: dict[str, Any]) -> Any:
    parts = tf.data.Dataset.from_tensor_slices(example['targets'])
    parts = parts.batch(length).enumerate()
    num_bytes = example['num_bytes']
    return parts.map(
      lambda i, targets: {
        'targets': targets,
        'num_bytes': tf.where(i == 0, num_bytes, 0),
      }
    )

  return dataset.flat_map(cut)


def vocabulary(vocab: Any) -> Any:
  """A seqio.Vocabulary that calls a `vocab.Vocab`.

  In the graph, encoding is a stateless numpy function, so that iterators over
  the dataset can be checkpointed.
  """
  seqio, tf = load('a vocabulary')

  class PythonVocabulary(
    seqio.Vocabulary  # type: ignore[name-defined] # imported only here
  ):
    """Calls `vocab.encode` and `vocab.decode`."""

    bos_id = None
    eos_id = vocab.eos_id
    unk_id = None
    _base_vocab_size = vocab.size

    def _encode(self, s: str | bytes) -> list[int]:
      return vocab.encode(s.decode() if isinstance(s, bytes) else s)

    def _decode(self, ids: Any) -> str:
      return vocab.decode(ids)

    def _encode_tf(self, s: Any) -> Any:
      ids = tf.numpy_function(
        lambda text: np.array(self._encode(text), np.int32),
        [s],
        tf.int32,
        stateful=False,
      )
      ids.set_shape([None])
      return ids

    def _decode_tf(self, ids: Any) -> Any:
      return tf.numpy_function(
        lambda x: self._decode(x.tolist()).encode(),
        [ids],
        tf.string,
        stateful=False,
      )

    def __eq__(self, other: Any) -> bool:
      return getattr(other, 'fingerprint', None) == self.fingerprint

    def __hash__(self) -> int:
      return hash(self.fingerprint)

    fingerprint = vocab.fingerprint()

  return PythonVocabulary()
