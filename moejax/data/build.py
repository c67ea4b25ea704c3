"""Builds batches from a data config: the composition of the data pipeline."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from moejax.core import errors
from moejax.data import (
  baselines,
  cache,
  cache_writer,
  config,
  loader,
  mixing,
  mixtures,
  other_caches,
  sources,
  stepped,
  tasks,
)
from moejax.data import vocab as vocabs
from moejax.data.chat.source import Conversations


@dataclasses.dataclass(frozen=True)
class Data:
  """Training batches and validation rows of a run.

  Attributes:
    train: batches by step.
    counts: tokens read from each domain, by step.
    vocab: the tokenizer; None where there is no text.
    domains: the rows of each domain, by its name.
  """

  train: loader.Loader
  counts: mixing.Counts
  vocab: vocabs.Vocab | None
  domains: dict[str, baselines.Domain]

  @property
  def length(self) -> int:
    """Tokens in a row."""
    return self.train.length

  @property
  def validation(self) -> dict[str, cache.RowReader]:
    """Held-out rows by domain."""
    return {name: domain.validation for name, domain in self.domains.items()}

  def baselines(self, name: str) -> baselines.Baselines | None:
    """Unigram and xz baselines of a domain's validation text.

    The first call computes them for all domains, two at a time (about ten
    seconds for the minipile); they are kept beside the validation rows.
    """
    return baselines.compute(self.domains)[name]

  def verify(self) -> None:
    """Compares the checksum of every byte of all rows.

    Raises:
      InputError: a file is damaged.
    """
    for domain in self.domains.values():
      for rows in (domain.train, domain.validation):
        if isinstance(rows, cache.RowCache):  # made-up rows have no files
          rows.verify()


def build(
  data_config: config.DataConfig,
  batch_size: int,
  seed: int,
  report: Callable[[cache_writer.Progress], None] = lambda _: None,
  *,
  processes: int = 0,
  steps: int = 0,
) -> Data:
  """Opens the packed rows of every domain; packs those not yet cached.

  Args:
    data_config: names the text, the vocabulary and the length of a row.
    batch_size: B, rows of a training step over all hosts.
    seed: determines the order of the rows.
    report: called with a `Progress` while caches are made, and once with
      `done` for each of `num_caches(data_config)`. A note that holds for
      several splits is reported once.
    processes: processes that encode text; 0 means one for each core. Nothing
      else depends on it.
    steps: steps of the run that is to read the batches, to check that no source
      is used up before; 0 checks nothing.

  Raises:
    InputError: bad text, config or cache; one line each.
  """
  request = packing_request(data_config, report, processes)
  listed = _sources(data_config)
  opened = [_domain(source, data_config, request) for source in listed]
  rates = mixing.rates(
    listed,
    [domain.train.num_tokens for domain in opened],
    data_config.temperature,
  )
  domains = {
    source.name: dataclasses.replace(domain, rate=rate)
    for source, domain, rate in zip(listed, opened, rates, strict=True)
  }
  readers = {name: domain.train for name, domain in domains.items()}
  train = loader.Loader(readers, rates, batch_size, seed)
  counts = mixing.Counts(train, readers)
  for name, line in mixing.rounded(listed, rates, train.quota_D).items():
    request.report(cache_writer.Progress(name, note=line))
  if steps:
    mixing.check(listed, train, counts, steps)
  has_text = any(domain.task.has_text for domain in opened)
  vocab = data_config.vocab if has_text else None
  return Data(train, counts, vocab, domains)


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """The validation sets of a text, without its training rows.

  Attributes:
    readers: the rows of each domain.
    vocab: the tokenizer; None where there is no text.
  """

  readers: dict[str, cache.RowReader]
  vocab: vocabs.Vocab | None


def validation(
  data_config: config.DataConfig,
  report: Callable[[cache_writer.Progress], None] = lambda _: None,
) -> HeldOut:
  """Opens the validation rows alone; packs those not yet cached.

  Arguments and errors are those of `build`.
  """
  request = packing_request(data_config, report)
  readers, has_text = {}, False
  for source in _sources(data_config):
    task = _text(source, data_config)
    readers[source.name] = _held_out(task, source, request)
    has_text |= task.has_text
  return HeldOut(readers, data_config.vocab if has_text else None)


def packing_request(
  data_config: config.DataConfig,
  report: Callable[[cache_writer.Progress], None] = lambda _: None,
  processes: int = 0,
) -> cache_writer.Request:
  """How the texts of a config are packed; arguments as of `build`.

  Raises:
    InputError: keys that do not fit together.
  """
  data_config.check()
  return cache_writer.Request(
    vocab=data_config.vocab,
    length=data_config.sequence_length,
    folder=cache_dir(data_config),
    max_documents=data_config.max_documents,
    report=_notes_once(report),
    packing=data_config.packing,
    processes=processes,
  )


def text_sources(data_config: config.DataConfig) -> dict[str, Any]:
  """The source of the text of each domain, by the domain's name."""
  return {
    source.name: _text(source, data_config) for source in _sources(data_config)
  }


def identity(data: Data) -> dict[str, str]:
  """The fingerprint of the rows of each domain and split.

  For a text it is the name of its cache folder, which contains a hash of
  everything the rows depend on: the text, the vocabulary, the length of a row.
  A resumed run whose fingerprints differ would train on different rows.

  Example:
    {'code/train': 'minipile_code-train-2105adb13aa99ebf',
     'code/validation': 'minipile_code-validation-0c5e6f3f1d0b9a77', ...}
    {'synthetic/train': 'synthetic', 'synthetic/validation': 'synthetic'}
  """
  return {
    f'{name}/{split}': getattr(domain, split).fingerprint
    for name, domain in data.domains.items()
    for split in domain.task.splits
  }


def contents(data: Data) -> dict[str, str]:
  """Checksums of the packed rows of each domain and split.

  Two runs with equal contents read the same rows in the same order, wherever
  the text is stored and whatever its files are called.

  Example:
    {'files/train': '4ac8...', 'files/validation': '90b1...'}
  """
  return {
    f'{name}/{split}': getattr(domain, split).contents
    for name, domain in data.domains.items()
    for split in domain.task.splits
  }


def contents_of(data_config: config.DataConfig, name: str) -> str | None:
  """The checksum (`contents`) of one cache; None if it was removed.

  Args:
    data_config: names the folder of the caches.
    name: name of the cache's folder, a value of `identity`.
  """
  meta = cache_dir(data_config) / name / cache.META
  try:
    return cache.Meta.from_json(meta.read_text()).contents()
  except (OSError, ValueError, TypeError, KeyError, AttributeError):
    return None


def num_caches(data_config: config.DataConfig) -> int:
  """How many caches `build` opens or makes."""
  return sum(len(source.text().splits) for source in _sources(data_config))


def cache_dir(data_config: config.DataConfig) -> pathlib.Path:
  """The folder of the caches."""
  chosen = data_config.cache_dir or os.environ.get('MOEJAX_CACHE', '')
  return pathlib.Path(chosen or '~/.cache/moejax').expanduser()


def _notes_once(
  report: Callable[[cache_writer.Progress], None],
) -> Callable[[cache_writer.Progress], None]:
  """Wraps `report` so that it gets every note only once."""
  reported: set[str] = set()

  def once(progress: cache_writer.Progress) -> None:
    if progress.note not in reported:
      report(progress)
    if progress.note:
      reported.add(progress.note)

  return once


def texts(
  data_config: config.DataConfig, note: Callable[[str], None]
) -> Iterator[str]:
  """The training documents of all domains, one domain after the other.

  Args:
    data_config: names the text.
    note: called with a line about documents that were left out.

  Raises:
    InputError: a bad document, or a text that only streams from elsewhere.
  """
  for source in _sources(data_config):
    task = _text(source, data_config)
    documents = task.texts('train', note)
    if documents is None:
      raise errors.InputError(
        f'the text of {task.name} is not read as a whole: download some of it, '
        'and set data.files'
      )
    yield from documents


def _sources(data_config: config.DataConfig) -> list[sources.Source]:
  """The sources of a config.

  `data.files` or `data.conversations` takes the place of `data.sources`, and
  these of `data.mixture`.
  """
  for kind in ('files', 'conversations'):
    if getattr(data_config, kind):
      keys = (kind, *sources.KINDS[kind].keys)
      own = {key: getattr(data_config, key) for key in keys}
      return [sources.SourceOfData(kind, **own)]
  if data_config.sources:
    return sorted(data_config.sources, key=lambda source: source.name)
  mixture = mixtures.MIXTURES[data_config.mixture]
  return [
    sources.Source(name=tasks.TASKS[name].domain, task=name, rate=rate)
    for name, rate in zip(mixture.tasks, mixture.rates, strict=True)
  ]


def _text(
  source: sources.Source, data_config: config.DataConfig, processes: int = 0
) -> Any:
  """The text of a source, without what the steps of the config remove."""
  text = source.text()
  if isinstance(text, Conversations):
    text = dataclasses.replace(text, images=data_config.images)
  steps = stepped.in_order(data_config.steps, data_config.step_order)
  if data_config.max_documents:
    processes = 1  # reads no document beyond the limit
  return stepped.with_steps(text, steps, processes)


def _domain(
  source: sources.Source,
  data_config: config.DataConfig,
  request: cache_writer.Request,
) -> baselines.Domain:
  task = _text(source, data_config, request.processes)
  train = _rows(task, task.splits[0], request)
  return baselines.Domain(
    task=task,
    rate=source.rate,
    vocab_size=request.vocab.size,
    train=train,
    validation=_held_out(task, source, request),
    max_documents=request.max_documents,
  )


def _held_out(
  text: Any, source: sources.Source, request: cache_writer.Request
) -> cache.RowReader:
  """The validation rows of a source."""
  rows = _rows(text, text.splits[1], request)
  if rows.num_rows == 0:
    raise errors.InputError(
      f'domain {source.name!r} has nothing to validate on: set '
      f'{source.place}.validation_files, or a larger '
      f'{source.place}.validation_fraction'
    )
  return rows


def _rows(
  text: Any, split: str, request: cache_writer.Request
) -> cache.RowReader:
  try:
    return text.rows(split, request)
  except errors.InputError as e:
    if not text.has_text:
      raise
    encoded = text.encoded(split, request)
    raise other_caches.explained(e, text, split, encoded) from None
