"""TASKS: every known text by its name, read as a seqio.Task.

To add one, add a line to TASKS (and a class, if it is read in a new way), and a
test with three rows in the source's format. A preprocessor turns each row into
exactly one example; it neither selects a split nor packs rows.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from moejax.core import errors
from moejax.data import (
  cache_writer,
  dolma,
  estimate,
  long_text,
  readers,
  seqio_bridge,
  synthetic,
)
from moejax.data import sums as sums_lib
from moejax.data import vocab as vocabs

MINIPILE = pathlib.Path(__file__).parent / 'minipile'


class SeqioText(cache_writer.TextSource):
  """Base of the texts that are read through a seqio.Task."""

  splits = ('train', 'validation')

  @property
  def hint(self) -> str:
    """Advice for the user if the text cannot be read."""
    return ''

  @property
  def domain(self) -> str:
    """The name of its rows in tables of results."""
    return self.name

  def to_seqio(self, vocab: vocabs.Vocab) -> Any:
    """The seqio.Task; imports TensorFlow."""
    raise NotImplementedError

  def documents(
    self,
    split: str,
    vocab: vocabs.Vocab,
    *,
    skip: int,
    note: Callable[[str], None],
  ) -> Generator[seqio_bridge.Document]:
    del note
    task = self.to_seqio(vocab)
    return seqio_bridge.documents(task, split, skip, self.hint)

  def decoded(self, split: str) -> Generator[str]:
    """The documents as text, one by one, whether or not they fit on a disk."""
    task = self.to_seqio(vocabs.Bytes())  # any: nothing is encoded
    return seqio_bridge.texts(task, split, self.hint)

  def sample(self, split: str) -> estimate.Sample:
    """The first documents of a split."""
    task = self.to_seqio(vocabs.Bytes())
    count = lambda: seqio_bridge.num_documents(task, split, self.hint)
    return estimate.of_stream(self.decoded(split), count)


@dataclasses.dataclass(frozen=True)
class Minipile(SeqioText):
  """A domain of the shipped text, which minipile/README.md describes."""

  name: str
  rearrange: Callable[[Any], Any] | None = None

  @property
  def domain(self) -> str:
    return self.name.removeprefix('minipile_')

  def path(self, split: str) -> pathlib.Path:
    return MINIPILE / f'{self.domain}-{split}.jsonl.gz'

  def identity(self, split: str, sums: sums_lib.Sums) -> dict[str, Any]:
    (digest,) = sums.of([self.path(split)])
    return {'sha256': digest}

  def texts(
    self, split: str, note: Callable[[str], None] = lambda _: None
  ) -> Iterator[str | long_text.LongText]:
    del note
    for item in readers.read(self.path(split), 'text'):
      if item.problem:
        raise errors.InputError(f'{item.where}: {item.problem}')
      yield item.text

  def shards(self, split: str) -> Sequence[pathlib.Path]:
    return [self.path(split)]

  def shard_texts(
    self, split: str, shard: pathlib.Path
  ) -> Generator[str | long_text.LongText]:
    del shard
    yield from self.texts(split)

  def sample(self, split: str) -> estimate.Sample:
    return estimate.of_files([self.path(split)], 'text')

  def to_seqio(self, vocab: vocabs.Vocab) -> Any:
    seqio, tf = seqio_bridge.load(self.name)
    lines = functools.partial(tf.data.TextLineDataset, compression_type='GZIP')
    source = seqio.FileDataSource(
      lines, {split: str(self.path(split)) for split in self.splits}
    )
    return seqio_bridge.task(self.name, source, vocab, json_text)


@dataclasses.dataclass(frozen=True)
class Tfds(SeqioText):
  """A text of TensorFlow Datasets that was prepared beforehand.

  It is read from $TFDS_DATA_DIR (which may be gs://...), or from the default
  folder of TensorFlow Datasets. The version is part of the name, since another
  version is another text. A test asks the installed TensorFlow Datasets whether
  it can prepare that version.

  Attributes:
    name: name of the text.
    tfds_name: its name in TensorFlow Datasets, with config and version.
    field: the feature that holds the text.
    split: the split to train on, such as 'train'.
    validation_split: the split to validate on; '' holds out the first
      `held_out` examples of `split`.
    held_out: see above.
    label: its name in lines for the user; '' means `name`.
    rearrange: see TextSource.
  """

  name: str
  tfds_name: str
  field: str = 'text'
  split: str = 'train'
  validation_split: str = 'validation'
  held_out: int = 0
  label: str = ''
  rearrange: Callable[[Any], Any] | None = None

  @property
  def hint(self) -> str:
    return (
      f'prepare it with `tfds build {self.tfds_name}` in an environment that '
      f'has what this text needs (pip install "tensorflow-datasets'
      f'[{self.tfds_name.partition("/")[0]}]"), and set TFDS_DATA_DIR'
    )

  def identity(self, split: str, sums: sums_lib.Sums) -> dict[str, Any]:
    del split, sums
    known = {'tfds': self.tfds_name, 'field': self.field}
    return known | _unlike_default(
      self, ('split', 'validation_split', 'held_out')
    )

  def stream(
    self, split: str, note: Callable[[str], None] = lambda _: None
  ) -> Iterator[str]:
    """The documents of a split, read by TensorFlow and encoded without it."""
    del note
    return self.decoded(split)

  def to_seqio(self, vocab: vocabs.Vocab) -> Any:
    seqio, _ = seqio_bridge.load(self.name)
    splits = {'train': self.split, 'validation': self.validation_split}
    if not self.validation_split:
      splits = {
        'train': f'{self.split}[{self.held_out}:]',
        'validation': f'{self.split}[:{self.held_out}]',
      }
    # Without read_only, TensorFlow Datasets would start to download C4.
    source = seqio.TfdsDataSource(
      self.tfds_name,
      tfds_data_dir=os.environ.get('TFDS_DATA_DIR'),
      splits=splits,
      read_only=True,
    )
    text = functools.partial(row_text, field=self.field)
    return seqio_bridge.task(self.name, source, vocab, text)


@dataclasses.dataclass(frozen=True)
class HuggingFace(SeqioText):
  """A text of the Hugging Face hub.

  It needs `datasets`: pip install 'moejax[huggingface]'. Rows stream from the
  hub in a fixed order. Downloaded files can be read without `datasets`, as own
  files: `--config.data.files='dir/*.parquet'`.

  Attributes:
    name: name of the text.
    path: the repository, or a local folder of the same layout.
    config: the config of the repository; '' for its only one.
    field: the column that holds the text.
    held_out: rows at the beginning of `split` to validate on, if
      `validation_split` is ''.
    split: the split to train on.
    validation_split: the split to validate on; '' for `held_out` rows.
    folder: a folder of the repository, its `data_dir`; '' for all.
    label: its name in lines for the user; '' means `name`.
    rearrange: see TextSource.
  """

  name: str
  path: str
  config: str = ''
  field: str = 'text'
  held_out: int = 10_000
  split: str = 'train'
  validation_split: str = ''
  folder: str = ''
  label: str = ''
  rearrange: Callable[[Any], Any] | None = None

  hint = 'or download its parquet files, and set data.files'

  def identity(self, split: str, sums: sums_lib.Sums) -> dict[str, Any]:
    del split, sums
    keys = ('name', 'path', 'config', 'field', 'held_out')
    return {key: getattr(self, key) for key in keys} | _unlike_default(
      self, ('split', 'validation_split', 'folder')
    )

  def select(self, split: str) -> Any:
    """The rows of a split, each with the text field alone."""
    held_out = split == 'validation'
    if self.validation_split:
      name = self.validation_split if held_out else self.split
      return self._stream(name).select_columns([self.field])
    rows = self._stream(self.split).select_columns([self.field])
    return rows.take(self.held_out) if held_out else rows.skip(self.held_out)

  def sample(self, split: str) -> estimate.Sample:
    """The first documents of a split, read without TensorFlow."""
    count = functools.partial(self._num_documents, split)
    return estimate.of_stream(self.stream(split), count)

  def _num_documents(self, split: str) -> int | None:
    """How many documents a split has; None if the repository does not say."""
    held_out = split == 'validation'
    named = held_out and self.validation_split or self.split
    # What a repository says of itself is about all of its folders.
    known = None if self.folder else self._stream(named).info.splits
    count = known[named].num_examples if known and named in known else None
    if not count:
      return None
    if self.validation_split:
      return count
    first = min(self.held_out, count)
    return first if held_out else count - first

  def stream(
    self, split: str, note: Callable[[str], None] = lambda _: None
  ) -> Generator[str]:
    """The documents of a split, read without TensorFlow.

    Raises:
      InputError: the hub cannot be reached, or a row holds no text.
    """
    del note
    try:
      for number, row in enumerate(self.select(split)):
        if not isinstance(row[self.field], str):
          raise errors.InputError(
            f'row {number} of the split {split!r} of {self.path}: column '
            f'{self.field!r} holds {type(row[self.field]).__name__}, not text'
          )
        yield row[self.field]
    except errors.InputError:
      raise
    except Exception as e:
      raise seqio_bridge.unreadable(self.path, split, self.hint, e) from e

  def to_seqio(self, vocab: vocabs.Vocab) -> Any:
    seqio, tf = seqio_bridge.load(self.name)

    def dataset(
      split: str, shuffle_files: bool = False, seed: int | None = None
    ) -> Any:
      del shuffle_files, seed  # rows come in the order of the hub
      rows = self.select(split)
      return tf.data.Dataset.from_generator(
        lambda: iter(rows),
        output_signature={self.field: tf.TensorSpec((), tf.string)},
      )

    source = seqio.FunctionDataSource(dataset, splits=self.splits)
    text = functools.partial(row_text, field=self.field)
    return seqio_bridge.task(self.name, source, vocab, text)

  def _stream(self, split: str) -> Any:
    instead = 'download its files and set data.files'
    extra = "'moejax[huggingface]'"
    with seqio_bridge.needed(f'{self.path} of the hub', extra, instead):
      import datasets

    return datasets.load_dataset(
      self.path,
      self.config or None,
      data_dir=self.folder or None,
      split=split,
      streaming=True,
    )


def _unlike_default(text: Any, keys: tuple[str, ...]) -> dict[str, Any]:
  """The keys of a dataclass that differ from their defaults.

  Only these enter an identity, so that keys which were added later change the
  name of no cache.
  """
  defaults = {field.name: field.default for field in dataclasses.fields(text)}
  return {
    key: getattr(text, key)
    for key in keys
    if getattr(text, key) != defaults[key]
  }


def json_text(dataset: Any) -> Any:
  """Lines of JSON objects into examples for `seqio_bridge.task`.

  Example:
    b'{"text": "café"}'
    {'targets': 'café', 'num_bytes': 5}
  """
  _, tf = seqio_bridge.load('json_text')

  def parse(line: Any) -> dict[str, Any]:
    text = tf.numpy_function(_field_of, [line], tf.string, stateful=False)
    return seqio_bridge.as_targets(tf.ensure_shape(text, ()))

  return dataset.map(parse)


def _field_of(line: bytes) -> np.ndarray:
  item = readers.json_item('line', line, 'text')
  if item.problem:
    raise ValueError(item.problem)
  return np.array(long_text.whole(item.text).encode(), object)


def row_text(dataset: Any, field: str) -> Any:
  """Rows with a text field into examples for `seqio_bridge.task`.

  The other fields of C4 (timestamp, url, ...) and FineWeb-Edu (id, dump, url,
  score, ...) are left out.

  Example, field='text':
    {'text': b'Hi', 'url': b'http://a.b'}
    {'targets': 'Hi', 'num_bytes': 2}
  """
  return dataset.map(lambda row: seqio_bridge.as_targets(row[field]))


TASKS: Mapping[str, SeqioText | dolma.Dolma | synthetic.SyntheticTask] = {
  'c4': Tfds('c4', 'c4/en:3.1.0'),
  'c4_hub': HuggingFace(
    'c4_hub', 'allenai/c4', 'en', validation_split='validation'
  ),
  'dclm': HuggingFace('dclm', 'mlfoundations/dclm-baseline-1.0'),
  'dolma': dolma.Dolma(),
  # The 2B configs read 105B tokens: slightly more than this sample has, and ten
  # times as many as sample-10BT. Its packed rows take some 400 GB;
  # data.max_documents limits them.
  'fineweb_edu': HuggingFace(
    'fineweb_edu', 'HuggingFaceFW/fineweb-edu', 'sample-100BT'
  ),
  'minipile_code': Minipile('minipile_code'),
  'minipile_dictionary': Minipile('minipile_dictionary'),
  'minipile_factbook': Minipile('minipile_factbook'),
  'minipile_scripture': Minipile('minipile_scripture'),
  'minipile_speeches': Minipile('minipile_speeches'),
  'slimpajama': HuggingFace(
    'slimpajama', 'cerebras/SlimPajama-627B', validation_split='validation'
  ),
  # The hub asks for consent to the terms of the repository first.
  'stack': HuggingFace('stack', 'bigcode/the-stack-dedup', field='content'),
  'synthetic': synthetic.SyntheticTask(),
  'wikipedia': HuggingFace('wikipedia', 'wikimedia/wikipedia', '20231101.en'),
  'wikipedia_tfds': Tfds(
    'wikipedia_tfds',
    'wikipedia/20230601.en:1.0.0',
    validation_split='',
    held_out=10_000,
  ),
}
