"""The task of `data.files`: the user's own text files.

Documents become token ids in Python, not in TensorFlow. So an error names the
file and the line, and a machine without TensorFlow can read text. `to_seqio`
makes a seqio.Task of the same documents, for use in a SeqIO pipeline.
"""

import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

from moejax.core import errors
from moejax.data import (
  cache_writer,
  encoding,
  estimate,
  long_text,
  opening,
  patterns,
  readers,
  seqio_bridge,
)
from moejax.data import sums as sums_lib
from moejax.data import vocab as vocabs

# The values of `data.bad_lines`: what happens at bad documents.
BAD_LINES = {
  'stop': 'count them all, then stop and name the first',
  'skip': 'leave them out, then say how many and name the first',
}

Text = str | long_text.LongText
# Bytes. Earlier versions hashed the contents of files up to this size only.
_FORMERLY_HASHED = 64 * 2**20


@dataclasses.dataclass
class Bad:
  """Bad documents, counted.

  Attributes:
    count: their number.
    first: the place of the first, and its problem.
  """

  count: int = 0
  first: str = ''

  def add(self, item: readers.Item) -> None:
    self.first = self.first or f'{item.where}: {item.problem}'
    self.count += 1

  def __add__(self, other: 'Bad') -> 'Bad':
    return Bad(self.count + other.count, self.first or other.first)

  def __str__(self) -> str:
    plural = 's' * (self.count > 1)
    return f'{self.count:,} bad document{plural}, the first is {self.first}'


@dataclasses.dataclass(frozen=True)
class Files(cache_writer.TextSource):
  """Text files as one domain.

  Without validation files, a share `fraction` of the documents is held out,
  drawn by a hash of their text, so that it stays the same when files are added
  or renamed. Of fewer than 10 / fraction documents such a draw could be empty;
  then the end of every document is held out, cut at a line where possible.

  Attributes:
    pattern: files, folders (searched to the bottom) or globs, joined by
      commas; see `patterns.find`.
    validation: files for validation, as in `pattern`; '' holds out a share of
      the documents of `pattern`.
    text_field: the field of JSON objects, or the column of parquet files.
    bad_lines: one of BAD_LINES; a .txt file is one document.
    fraction: the share that is held out.
    label: the name of the domain, for tables and lines.
    place: the node of the config keys, for errors: `data` of `data.files`, or
      `data.sources.web`.
    key: the config key of `pattern` in that node.
    rearrange: see TextSource.
  """

  pattern: str
  validation: str = ''
  text_field: str = 'text'
  bad_lines: str = 'stop'
  fraction: float = 0.05
  label: str = 'files'
  place: str = 'data'
  key: str = 'files'
  rearrange: Callable[[Any], Any] | None = None

  name = 'files'
  kinds = readers.READERS
  splits = ('train', 'validation')

  def identity(self, split: str, sums: sums_lib.Sums) -> dict[str, Any]:
    """Everything the documents depend on: contents of files, not names.

    Objects of an object store are known by name, size and time, because their
    contents would have to be transferred to be compared.
    """
    paths = self._files(split).paths
    regular = [
      path
      for path in paths
      if not readers.no_file(path) and not opening.is_remote(path)
    ]
    digests = dict(zip(regular, sums.of(regular), strict=True))

    def stamp(path: pathlib.Path) -> list[Any]:
      if opening.is_remote(path):
        return _remote_stamp(path)
      if path not in digests:
        return [readers.suffix(path, self.kinds), 0, 'no file']
      return [
        readers.suffix(path, self.kinds),
        _status(path).st_size,
        digests[path],
      ]

    return self._identity(map(stamp, paths))

  def former_identity(
    self, split: str, sums: sums_lib.Sums
  ) -> dict[str, Any] | None:
    """The identity of earlier versions; None if no file is over 64 MB.

    Those versions identified larger files by name, size and time.
    """
    if any(map(opening.is_remote, self._files(split).paths)):
      return None
    stamps, small = [], []
    for path in self._files(split).paths:
      if readers.no_file(path):
        continue
      status = _status(path)
      stamp = [str(path), status.st_size, status.st_mtime_ns]
      if status.st_size <= _FORMERLY_HASHED:
        stamp = [readers.suffix(path, self.kinds), status.st_size, '']
        small.append((path, stamp))
      stamps.append(stamp)
    if len(small) == len(stamps):
      return None
    digests = sums.of([path for path, _ in small])
    for (_, stamp), digest in zip(small, digests, strict=True):
      stamp[-1] = digest
    return self._identity(stamps)

  def _identity(self, stamps: Iterable[list[Any]]) -> dict[str, Any]:
    shared = {} if self.validation else {'fraction': self.fraction}
    return {
      'files': list(stamps),
      'text_field': self.text_field,
      'bad_lines': self.bad_lines,
      **shared,
    }

  def _files(self, split: str) -> patterns.Matches:
    """The files of a split; validation files are never trained on."""
    held_out = split == 'validation' and self.validation
    return self._held_out if held_out else self._to_train_on

  # Both lists are cached, so that checksums, training and validation read the
  # same files even if a folder changes meanwhile.
  @functools.cached_property
  def _held_out(self) -> patterns.Matches:
    return patterns.find(
      f'{self.place}.validation_files', self.validation, self.kinds
    )

  @functools.cached_property
  def _to_train_on(self) -> patterns.Matches:
    matches = patterns.find(
      f'{self.place}.{self.key}', self.pattern, self.kinds
    )
    if not self.validation:
      return matches
    away = {patterns.real(path) for path in self._held_out.paths}
    kept = [path for path in matches.paths if patterns.real(path) not in away]
    if not kept:
      raise errors.InputError(
        f'{self.place}.{self.key}={self.pattern!r}: all its files are '
        'validation files too; name others, or leave out '
        f'{self.place}.validation_files'
      )
    return matches._replace(paths=tuple(kept))

  def all_texts(
    self, split: str = 'train', note: Callable[[str], None] = lambda _: None
  ) -> Iterator[Text]:
    """The documents of the files of a split, held-out ones among them.

    Args:
      split: 'train' or 'validation'.
      note: called with lines about files passed over and documents left out, up
        to the last document that was read.

    Raises:
      InputError: a document is bad and `bad_lines` is 'stop', none is good, or
        a file cannot be read.
    """
    matches, bad = self._files(split), Bad()
    skip = self.bad_lines == 'skip'
    for line in matches.notes:
      note(line)
    any_good = False
    try:
      for path in matches.paths:
        for text in self._good(path, bad):
          # If bad documents stop the run, the other documents are read only to
          # count the bad ones.
          if skip or not bad.count:
            any_good = True
            yield text
    finally:
      if skip and bad.count:
        note(f'left out {bad}')
    self._check(bad, any_good)

  def _check(self, bad: Bad, any_good: bool) -> None:
    """Raises InputError if bad documents are not to be left out."""
    if bad.count and self.bad_lines != 'skip':
      raise errors.InputError(
        f'{bad}; mend it, or leave them out with {self.place}.bad_lines=skip'
      )
    if not any_good:
      raise errors.InputError(f'no document is good: {bad}')

  def _good(self, path: pathlib.Path, bad: Bad) -> Iterator[Text]:
    """The good documents of one file; the bad ones are added to `bad`."""
    good, bad_here, lacking = 0, Bad(), 0
    for item in self._read(path):
      if item.problem:
        named = item.problem.replace('data.text_field', self._text_field)
        item = item._replace(problem=named)
        bad_here.add(item)
        bad.add(item)
        lacking += item.lacks_field
      else:
        good += 1
        yield item.text
    if lacking and lacking == bad_here.count and not good:
      # The rows are not bad; the file is of another kind, or the text field is
      # wrong.
      raise errors.InputError(
        f'{bad_here.first}; no row of the file has it: set '
        f'{self._text_field}, or leave the file out of {self.place}.files'
      )

  def _read(self, path: pathlib.Path) -> Iterator[readers.Item]:
    """The documents of one file, good and bad."""
    return readers.read(path, self.text_field)

  @property
  def _text_field(self) -> str:
    return f'{self.place}.text_field'

  def texts(
    self, split: str, note: Callable[[str], None] = lambda _: None
  ) -> Iterator[Text]:
    """The documents of a split."""
    yield from self._of_split(self.all_texts(split, note), split)

  def _of_split(self, texts: Iterator[Text], split: str) -> Iterator[Text]:
    """The documents of a split, of some of the documents of its files."""
    held_out = split == 'validation'
    if self.validation:
      yield from texts
    elif self._few:
      yield from filter(None, (ends(t, self.fraction)[held_out] for t in texts))
    else:
      yield from (t for t in texts if _drawn(t, self.fraction) == held_out)

  def shards(self, split: str) -> Sequence[pathlib.Path]:
    """The files."""
    if not self.validation:
      _ = self._few  # is known to copies of this object from here on
    return self._files(split).paths

  def shard_texts(
    self, split: str, shard: pathlib.Path
  ) -> Generator[Text, None, tuple[Bad, bool]]:
    """The documents of a file; returns the bad ones, and if any is good."""
    bad, any_good = Bad(), False

    def good() -> Iterator[Text]:
      nonlocal any_good
      for text in self._good(shard, bad):
        any_good = True
        yield text

    yield from self._of_split(good(), split)
    return bad, any_good

  def shard_notes(
    self, split: str, reports: Sequence[tuple[Bad, bool]]
  ) -> list[str]:
    bad = sum((bad for bad, _ in reports), Bad())
    self._check(bad, any(any_good for _, any_good in reports))
    left_out = [f'left out {bad}'] if bad.count else []
    return [*self._files(split).notes, *left_out]

  def documents(
    self,
    split: str,
    vocab: vocabs.Vocab,
    *,
    skip: int,
    note: Callable[[str], None],
  ) -> Generator[seqio_bridge.Document]:
    """The documents of a split as token ids, from number `skip` on."""
    texts = itertools.islice(self.texts(split, note), skip, None)
    return encoding.documents(texts, vocab, processes=1)

  def sample(self, split: str) -> estimate.Sample:
    """Some documents of the files of a split."""
    sample = estimate.of_files(self._files(split).paths, self.text_field)
    if self.validation:
      return sample
    share = self.fraction if split == 'validation' else 1 - self.fraction
    if self._few:  # a part of each document
      return sample._replace(document_bytes=sample.document_bytes * share)
    return sample._replace(num_documents=(sample.num_documents or 0) * share)

  def to_seqio(self, vocab: vocabs.Vocab) -> Any:
    """A seqio.Task with the same documents."""
    seqio, tf = seqio_bridge.load(self.name)

    def dataset(
      split: str, shuffle_files: bool = False, seed: int | None = None
    ) -> Any:
      del shuffle_files, seed  # documents come in one order
      return tf.data.Dataset.from_generator(
        lambda: map(long_text.whole, self.texts(split)),
        output_signature=tf.TensorSpec((), tf.string),
      )

    source = seqio.FunctionDataSource(dataset, splits=self.splits)
    return seqio_bridge.task(
      self.name, source, vocab, lambda ds: ds.map(seqio_bridge.as_targets)
    )

  @functools.cached_property
  def _few(self) -> bool:
    """Whether there are too few documents to draw validation documents."""
    enough = int(min(10 / self.fraction, 2**40))
    count = sum(1 for _ in itertools.islice(self.all_texts(), enough))
    return count < enough


def _status(path: pathlib.Path) -> os.stat_result:
  try:
    return path.stat()
  except OSError as e:
    raise errors.InputError(
      f'{errors.shown(path)} cannot be read: {e.strerror}'
    ) from None


def _remote_stamp(path: Any) -> list[Any]:
  """Name, size and time of an object of an object store."""
  try:
    status = path.stat()
  except Exception as e:
    raise opening.unreachable(str(path), e) from e
  return [str(path), status.length, status.mtime]


def _drawn(text: Text, fraction: float) -> bool:
  """Whether a document is drawn for validation, by a hash of its text."""
  if isinstance(text, str):
    digest = hashlib.sha256(text.encode()).digest()
  else:
    digest = text.sha256()
  return int.from_bytes(digest[:8]) < fraction * 2**64


def ends(text: Text, fraction: float) -> tuple[Text, Text]:
  """Cuts the last part off a document, after a line end where there is one.

  Example, fraction=0.3, with / for a line end:
    'one/two/three/four'
    ('one/two/three/', 'four')
  """
  if isinstance(text, long_text.LongText):
    return text.ends(fraction)
  cut = round(len(text) * (1 - fraction))
  line = text.find('\n', cut)
  cut = line + 1 if 0 <= line < len(text) - 1 else cut
  return text[:cut], text[cut:]
