"""A text with steps: the documents of another text that the steps keep."""

import dataclasses
import itertools
from collections.abc import (
  Callable,
  Container,
  Generator,
  Iterator,
  Mapping,
  Sequence,
)
from typing import Any

from moejax.core import errors, table
from moejax.data import (
  cache_writer,
  encoding,
  estimate,
  seqio_bridge,
  workers,
)
from moejax.data import sums as sums_lib
from moejax.data import vocab as vocabs
from moejax.data.steps import STEPS, base

PROVISO = 'if data.steps keep all of it; their own time is not counted'


def in_order(
  steps: Sequence[base.Step], order: Sequence[str]
) -> dict[str, base.Step]:
  """The steps by name, in the order in which they run.

  Args:
    steps: entries of STEPS, in the order of the table.
    order: their names in the order wanted; empty: the order of the table.

  Raises:
    InputError: `order` does not name every step once.
  """
  by_name = {table.name_of(STEPS, step): step for step in steps}
  for name in order:
    table.lookup('data.step_order', STEPS, name)
  if order and sorted(order) != sorted(by_name):
    raise errors.InputError(
      f'data.step_order={",".join(order)}: it must name each of the steps that '
      f'are on once: {", ".join(by_name) or "there are none"}'
    )
  return {name: by_name[name] for name in order or by_name}


def with_steps(
  text: Any, steps: Mapping[str, base.Step], processes: int = 0
) -> Any:
  """The documents of a text that the steps keep; without steps, the text.

  Args:
    text: the source of the documents.
    steps: by name, in the order in which they run.
    processes: that examine documents; 0 means one for each core.

  Raises:
    InputError: the text is made-up rows, which steps cannot read.
  """
  if not steps:
    return text
  if not text.has_text:
    raise errors.InputError(
      f'data.steps reads text, and {text.name} is made-up rows: leave out '
      f'{", ".join(f"data.steps.{name}" for name in steps)}'
    )
  if text.masked:
    raise errors.InputError(
      f'data.steps reads text, and {text.label} has conversations: leave out '
      f'{", ".join(f"data.steps.{name}" for name in steps)}'
    )
  return Stepped(text, steps, processes)


class Stepped(cache_writer.TextSource):
  """The documents of a text that the steps keep, each split by itself.

  Args:
    text: the source of the documents.
    steps: by name, in the order in which they run.
    processes: that examine documents; 0 means one for each core.
  """

  def __init__(
    self, text: Any, steps: Mapping[str, base.Step], processes: int = 0
  ):
    self._processes = processes or workers.cores()
    self.text, self.steps = text, steps
    self.label = text.label
    self.rearrange = text.rearrange
    self.compares_shards = any(
      isinstance(step, base.FirstOfEqual) for step in steps.values()
    )
    self._passes: dict[str, base.Pass] = {}

  def __getattr__(self, name: str) -> Any:
    # What a source has besides the methods below: domain, splits, ...
    if name == 'text':  # while unpickling
      raise AttributeError(name)
    return getattr(self.text, name)

  def identity(self, split: str, sums: sums_lib.Sums) -> dict[str, Any]:
    steps = [
      [name, dataclasses.asdict(step)] for name, step in self.steps.items()
    ]
    return {**self.text.identity(split, sums), 'steps': steps}

  def texts(
    self, split: str, note: Callable[[str], None] = lambda _: None
  ) -> Iterator[base.Text] | None:
    texts = self.text.texts(split, note)
    return None if texts is None else self._kept(split, texts, note)

  def stream(
    self, split: str, note: Callable[[str], None] = lambda _: None
  ) -> Iterator[base.Text]:
    """The documents kept, one by one.

    An interrupted pass begins anew at the first document, since what a step
    decides may depend on all documents before. Only encoding is not repeated.
    """
    texts = self.text.stream(split, note)
    if texts is None:  # SeqIO reads it
      texts = self.text.decoded(split)
    return self._kept(split, texts, note)

  def documents(
    self,
    split: str,
    vocab: vocabs.Vocab,
    *,
    skip: int,
    note: Callable[[str], None],
  ) -> Generator[seqio_bridge.Document]:
    texts = itertools.islice(self.stream(split, note), skip, None)
    return encoding.documents(texts, vocab, processes=1)

  def sample(self, split: str) -> estimate.Sample | None:
    """Some documents before the steps; how many stay is not known before."""
    sample = self.text.sample(split)
    return sample and sample._replace(proviso=PROVISO)

  def removed(self, split: str) -> tuple[base.Removed, ...]:
    return self._passes[split].removed if split in self._passes else ()

  def shards(self, split: str) -> Sequence[Any] | None:
    """The shards of the text.

    Raises:
      InputError: a step needs the documents in the order of the whole text.
    """
    for name, step in self.steps.items():
      if not isinstance(step, base.Filter | base.FirstOfEqual):
        raise errors.InputError(
          f'data.steps.{name} reads the documents in the order of the whole '
          'text, which workers with --beam do not know: leave it out, or pack '
          'without --beam'
        )
    shards: Sequence[Any] | None = self.text.shards(split)
    return shards

  def shard_keys(self, split: str, shard: Any) -> Iterator[bytes]:
    """The values of the documents that reach the step `FirstOfEqual`."""
    steps = []
    for step in self.steps.values():
      steps.append(step)
      if isinstance(step, base.FirstOfEqual):
        break
    for text in self.text.shard_texts(split, shard):
      values = base.examine(steps, text).values
      if len(values) == len(steps):  # no filter has removed it
        yield values[-1]

  def shard_texts(
    self, split: str, shard: Any, repeated: Container[int] = frozenset()
  ) -> Generator[base.Text, None, Any]:
    """The documents of a shard that the steps keep.

    Args:
      split: 'train' or 'validation'.
      shard: one of `shards`.
      repeated: numbers of its `shard_keys` that an earlier document has.

    Returns:
      The report of the text, and what the steps removed.
    """
    report = None

    def texts() -> Iterator[base.Text]:
      nonlocal report
      report = yield from self.text.shard_texts(split, shard)

    one = base.Pass(self.steps, repeated)
    yield from one.kept(texts())
    return report, one.removed

  def shard_notes(self, split: str, reports: Sequence[Any]) -> list[str]:
    """The notes of `stream`; `removed` then has what all shards removed."""
    notes = list(self.text.shard_notes(split, [own for own, _ in reports]))
    one = self._passes[split] = base.Pass(self.steps)
    for _, removed in reports:
      added = zip(one.removed, removed, strict=True)
      one.removed = tuple(before + more for before, more in added)
    self._check_left(split, one)
    return [*notes, one.summary()] if one.documents else notes

  def _kept(
    self,
    split: str,
    texts: Iterator[base.Text],
    note: Callable[[str], None],
  ) -> Iterator[base.Text]:
    """The documents that a new pass keeps.

    Raises:
      InputError: there are documents, and none is kept.
    """
    one = self._passes[split] = base.Pass(self.steps)
    finished = False
    try:
      yield from one.kept(texts, self._processes)
      finished = True
    finally:
      if one.documents:
        note(one.summary())
    if finished:
      self._check_left(split, one)

  def _check_left(self, split: str, one: base.Pass) -> None:
    """Raises InputError if there are documents, and none is kept."""
    if one.documents and not one.documents_kept:
      raise errors.InputError(
        f'no document of {self.text.name} {split} is left: {one.summary()}'
      )
