"""The text of a calibration, and the statistics of experts on it.

A run's own validation sets can be read in halves: the first for calibration,
the second to evaluate what became of the model.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from moejax.compress import domains
from moejax.compress.statistics import ExpertStatistics
from moejax.core import errors, files
from moejax.data import build as data_build
from moejax.data.cache import RowReader
from moejax.data.features import Rows
from moejax.data.vocab import Ids
from moejax.evals.subject import Track
from moejax.model.build import Weights
from moejax.run import (
  calibrating,
  data_progress,
  layer_source,
  layerwise_calibration,
  restore,
  statistics_folder,
  traced_text,
)
from moejax.run.calibrating import Calibration
from moejax.run.traced_text import TracedText
from moejax.run.trained import Trained

Note = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class RowRange:
  """Some successive rows of a reader, as a reader.

  Attributes:
    reader: the rows of a text.
    first: index of the first row.
    num_rows: number of rows.
  """

  reader: RowReader
  first: int
  num_rows: int

  @property
  def length(self) -> int:
    """L, tokens of a row."""
    return self.reader.length

  @property
  def first_id(self) -> int:
    """The id that the model reads at the start of every segment."""
    return self.reader.first_id

  @functools.cached_property
  def num_tokens(self) -> int:
    """Targets that are not padding."""
    rows = self.rows(np.arange(self.num_rows))
    return int(np.count_nonzero(rows.segment_NL))

  @property
  def num_bytes(self) -> int:
    """UTF-8 bytes of the text, by the share of the tokens."""
    whole = max(1, self.reader.num_tokens)
    return round(self.reader.num_bytes * self.num_tokens / whole)

  @property
  def fingerprint(self) -> str:
    """Identifies what the rows were made from."""
    return f'{self.reader.fingerprint}{self._place}'

  @property
  def contents(self) -> str:
    """A checksum of the rows, by that of all rows."""
    return f'{self.reader.contents}{self._place}'

  @property
  def _place(self) -> str:
    return f'[{self.first}:{self.first + self.num_rows}]'

  def rows(self, index_N: np.ndarray) -> Rows:
    """The rows at these indices, in their order."""
    return self.reader.rows(np.asarray(index_N) + self.first)


def halves(
  readers: Mapping[str, RowReader],
) -> tuple[dict[str, RowReader], dict[str, RowReader]]:
  """The first and the second half of each set of rows.

  Raises:
    InputError: a set has a single row.
  """
  first: dict[str, RowReader] = {}
  second: dict[str, RowReader] = {}
  for name, reader in readers.items():
    half = reader.num_rows // 2
    rest = reader.num_rows - half
    if not half:
      raise errors.InputError(
        f'the validation set {name!r} has {reader.num_rows} row, which cannot '
        'be shared by calibration and evaluation; name another text for the '
        'calibration with --files'
      )
    # A reader by its properties, which its protocol has as attributes.
    parts: Any = RowRange(reader, 0, half), RowRange(reader, half, rest)
    first[name], second[name] = parts
  return first, second


def open_text(
  opened: Trained,
  calibration: Calibration,
  note: Note,
  *,
  half: bool = False,
) -> TracedText:
  """The text of a calibration; packs it if there is no cache of it.

  Args:
    opened: the model and its config.
    calibration: what is asked.
    note: is called with lines on the progress.
    half: whether the first half of the validation sets is taken, where no other
      text is named.

  Raises:
    InputError: the text cannot be read, or is of another tokenizer.
  """
  config, report = opened.run.data, data_progress.lines(note)
  if half and not (calibration.files or calibration.mixture):
    held_out = data_build.validation(config, report)
    first, _ = halves(held_out.readers)
    text = traced_text.of(first, held_out.vocab, config, calibration.tokens)
  else:
    text = traced_text.open_text(
      config,
      report,
      note,
      files=calibration.files,
      mixture=calibration.mixture,
      tokens=calibration.tokens,
    )
  own = own_tokenizer(opened)
  if text.tokenizer and own:
    calibrating.check_tokenizer(text, own)
  return text


def own_tokenizer(opened: Trained) -> str:
  """The fingerprint of the tokenizer that a model was trained with.

  It is '' for an imported model that came without one. `data.vocab` then names
  that of the text.
  """
  vocab = restore.run_of(opened.workdir).data.vocab
  return '' if isinstance(vocab, Ids) else vocab.fingerprint()


def _of_domains(text: TracedText, names: Iterable[str]) -> TracedText:
  """The text without all other domains."""
  return dataclasses.replace(
    text,
    readers={name: text.readers[name] for name in names},
    num_rows={name: text.num_rows[name] for name in names},
  )


@dataclasses.dataclass(frozen=True)
class Collected:
  """Statistics, and what they are of.

  Attributes:
    statistics: by domain.
    domain_weights: by domain; those without a weight have no say.
    text: what they were collected of, as JSON values.
    checkpoint: fingerprint of the weights.
    step: of the checkpoint.
  """

  statistics: dict[str, ExpertStatistics]
  domain_weights: dict[str, float]
  text: dict[str, Any]
  checkpoint: str
  step: int


@dataclasses.dataclass(frozen=True)
class Collector:
  """Reads statistics from a folder, or collects them.

  Attributes:
    opened: the model.
    calibration: the text, and what is collected.
    domains: NAME=WEIGHT, comma separated; '' counts all domains alike.
    folder: where statistics are kept; '' for nowhere.
    half: see `open_text`.
    note: is called with lines on the progress.
    track: shows the progress through batches.
  """

  opened: Trained
  calibration: Calibration
  domains: str
  folder: str
  half: bool
  note: Note
  track: Track

  def collect(
    self, weights: Callable[[], Weights], step: int, *, any_text: bool = False
  ) -> Collected:
    """The statistics of a checkpoint.

    Args:
      weights: gives the weights; called only if statistics are collected.
      step: of the checkpoint.
      any_text: whether statistics of a folder are taken whatever their text.

    Raises:
      InputError: see `calibrating.calibrate` and `statistics_folder.load`; or
        an unknown domain.
    """
    opened, folder = self.opened, self.folder
    checkpoint = calibrating.fingerprint(opened.workdir, opened.model, step)
    if folder and statistics_folder.exists(folder):
      described = None if any_text else self.described(self._text())
      statistics, known = statistics_folder.load(
        folder, checkpoint, own_tokenizer(opened), described
      )
      if self.calibration.outputs and any(
        one.output_gram_NEE is None for one in statistics.values()
      ):
        raise errors.InputError(
          f"the statistics in {folder} lack the experts' outputs, which this "
          'method compares; name another folder to collect them in'
        )
      self.note(f'The statistics are those of {folder}.')
      parsed = domains.parsed(self.domains, statistics)
      return Collected(statistics, parsed, known, checkpoint, step)
    text = self._text()
    parsed = domains.parsed(self.domains, text.readers)
    if folder:
      files.check_writable(folder, '--statistics')
    else:
      # Only what is kept may be asked for other domains later.
      text = _of_domains(text, parsed)
    described = self.described(text)
    how: Any = {
      'documents': self.calibration.documents,
      'outputs': self.calibration.outputs,
      'checkpoint': checkpoint,
      'track': self.track,
    }
    if self.calibration.by_layer:
      statistics = self._by_layer(text, step, how)
    else:
      statistics = calibrating.calibrate(opened.model, weights(), text, **how)
    if folder:
      statistics_folder.save(folder, statistics, described)
    return Collected(statistics, parsed, described, checkpoint, step)

  def _by_layer(
    self, text: TracedText, step: int, how: Any
  ) -> dict[str, ExpertStatistics]:
    """The statistics, with one layer after the other in memory."""
    model = self.opened.model
    reader = layer_source.of_workdir(
      self.opened.workdir, model, str(step), self.note
    )
    with reader as (read, _):
      source = layer_source.LayerSource(model, read)
      return layerwise_calibration.calibrate(source, text, **how)

  def _text(self) -> TracedText:
    return open_text(self.opened, self.calibration, self.note, half=self.half)

  def described(self, text: TracedText) -> dict[str, Any]:
    """What statistics are of, as JSON values."""
    return {
      'rows': text.request,
      'documents': self.calibration.documents,
      'tokenizer': text.tokenizer,
    }
