"""TracedText: the rows of text whose routings are traced, by domain."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from moejax.core import errors, table
from moejax.data import build as data_build
from moejax.data import files as files_lib
from moejax.data import mixtures, packings, patterns, sources, tasks
from moejax.data.batch import Batch
from moejax.data.cache import RowReader
from moejax.data.cache_writer import Progress
from moejax.data.config import DataConfig
from moejax.data.vocab import Vocab

FILES, MIXTURE = '--files', '--mixture'
Report = Callable[[Progress], None]


@dataclasses.dataclass(frozen=True)
class TracedText:
  """Packed rows by domain, and how many of them are traced.

  Attributes:
    readers: the rows of each domain.
    num_rows: rows of each domain to trace, from its first.
    tokenizer: fingerprint of the tokenizer; '' for rows without text.
    eos_id: the id that ends documents, if a row goes on with the document that
      the row before has not ended; None if every row begins another.
  """

  readers: Mapping[str, RowReader]
  num_rows: Mapping[str, int]
  tokenizer: str = ''
  eos_id: int | None = None

  @property
  def request(self) -> dict[str, Any]:
    """What the rows depend on, as JSON values.

    By domain: the fingerprint of its rows, how many are traced, their length.
    """
    return {
      name: [reader.fingerprint, self.num_rows[name], reader.length]
      for name, reader in self.readers.items()
    }

  @property
  def num_tokens(self) -> int:
    """Tokens to trace; of a domain traced in part, those of its mean row."""
    return sum(
      math.ceil(reader.num_tokens * self.num_rows[name] / reader.num_rows)
      for name, reader in self.readers.items()
    )


def open_text(
  config: DataConfig,
  report: Report = lambda _: None,
  note: Callable[[str], None] = lambda _: None,
  *,
  files: str | None = None,
  mixture: str | None = None,
  tokens: int = 0,
) -> TracedText:
  """The text that a command names; packs it if there is no cache of it.

  Args:
    config: the data of the run, with tokenizer, length of a row and packing.
    report: as of `data.build`.
    note: called with a line about files that were passed over.
    files: the user's own files, as in `data.files`; each is a domain.
    mixture: a name in MIXTURES or TASKS, whose validation sets are the domains.
      Without `files` and `mixture`, those of the run are.
    tokens: about how many tokens to trace, in equal shares of the domains; a
      domain with fewer leaves the rest to the others. 0 traces all.

  Raises:
    InputError: both `files` and `mixture`, an unknown mixture, or a text that
      cannot be read.
  """
  if files and mixture:
    raise errors.InputError(
      f'{FILES}={files} and {MIXTURE}={mixture} are two texts: give one'
    )
  if mixture:
    config = _with_mixture(config, mixture)
  if files:
    readers = _of_files(files, config, report, note)
    held_out = data_build.HeldOut(readers, config.vocab)
  else:
    held_out = data_build.validation(config, report)
  return of(held_out.readers, held_out.vocab, config, tokens)


def of(
  readers: Mapping[str, RowReader],
  vocab: Vocab | None,
  config: DataConfig,
  tokens: int,
) -> TracedText:
  """The beginnings of texts that are open.

  Args:
    readers: rows of each domain.
    vocab: the tokenizer; None for rows without text.
    config: how they were packed.
    tokens: about how many tokens; see `open_text`.
  """
  in_order = isinstance(config.packing, packings.Sequential)
  return TracedText(
    readers,
    shares(readers, tokens),
    tokenizer=vocab.fingerprint() if vocab else '',
    eos_id=vocab.eos_id if vocab and in_order else None,
  )


def _with_mixture(config: DataConfig, name: str) -> DataConfig:
  """The config with a mixture, or with a task as the only source."""
  known = {*mixtures.MIXTURES, *tasks.TASKS}
  listed: tuple[sources.Source, ...] = ()
  if name in mixtures.MIXTURES:
    mixture = name
  elif name in tasks.TASKS:
    source = sources.Source(name=tasks.TASKS[name].domain, task=name)
    listed, mixture = (source,), config.mixture
  else:
    raise table.unknown(MIXTURE, name, known)
  return dataclasses.replace(
    config,
    mixture=mixture,
    sources=listed,
    files='',
    validation_files='',
    temperature=None,
  )


def _of_files(
  pattern: str,
  config: DataConfig,
  report: Report,
  note: Callable[[str], None],
) -> dict[str, RowReader]:
  """The rows of each file by its name, or by its path if two have one name."""
  matches = patterns.find(FILES, pattern)
  for line in matches.notes:
    note(line)
  request = data_build.packing_request(config, report)
  count = Counter(path.name for path in matches.paths)
  readers: dict[str, RowReader] = {}
  for path in matches.paths:
    name = path.name if count[path.name] == 1 else str(path)
    # As validation files, so that no document is held out.
    text = files_lib.Files(
      str(path),
      validation=str(path),
      text_field=config.text_field,
      bad_lines=config.bad_lines,
      label=name,
    )
    readers[name] = text.rows('validation', request)
  return readers


def shares(readers: Mapping[str, RowReader], tokens: int) -> dict[str, int]:
  """Rows of each domain, at least one: about `tokens` in all; 0 for all.

  Example, tokens=600 and rows of 100 tokens, of domains with 1, 9 and 9 rows:
    1, 3 and 2 rows
  """
  if not tokens:
    return {name: reader.num_rows for name, reader in readers.items()}
  length = next(iter(readers.values())).length
  left, share = math.ceil(tokens / length), {}
  smallest_first = sorted(readers, key=lambda name: readers[name].num_rows)
  for number, name in enumerate(smallest_first):
    equal = math.ceil(left / (len(readers) - number))
    share[name] = min(max(equal, 1), readers[name].num_rows)
    left -= share[name]
  return {name: share[name] for name in readers}


class DocumentNumbers:
  """Numbers the documents of successive batches, from 0 over all domains.

  Args:
    eos_id: as in TracedText.
  """

  def __init__(self, eos_id: int | None):
    self._eos_id = eos_id
    self._next = 0
    self._goes_on = False

  def begin_domain(self) -> None:
    """The next row begins a document."""
    self._goes_on = False

  def of(self, batch: Batch) -> np.ndarray:
    """document_BL of a batch of numpy arrays; without meaning in padding.

    Example, eos_id=1 and rows of 3 tokens; the second document goes on in the
    second row:
      target   [[7, 1, 5], [8, 1, 0]]
      segment  [[1, 1, 2], [1, 1, 0]]
      result   [[0, 0, 1], [1, 1, 1]]
    """
    segment_BL = batch.segment_BL
    before_BL = np.pad(segment_BL, ((0, 0), (1, 0)))[:, :-1]
    begins_BL = (segment_BL != before_BL) & (segment_BL > 0)
    # Whether a row ends within a document.
    open_B = (segment_BL[:, -1] > 0) & (batch.target_BL[:, -1] != self._eos_id)
    open_B &= self._eos_id is not None
    goes_on_B = np.concatenate([[self._goes_on], open_B[:-1]])
    begins_BL[:, 0] &= ~goes_on_B
    number = self._next - 1 + np.cumsum(begins_BL).reshape(segment_BL.shape)
    self._next = int(number[-1, -1]) + 1
    self._goes_on = bool(open_B[-1])
    return number.astype(np.int32)
