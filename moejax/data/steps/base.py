"""The contract of steps, and a pass of several steps over the documents.

A step has two halves. `examine` is a pure function of one document, which any
process may compute. `judge` then decides about the documents one after the
other, in the order of the text; only this half may have a state, such as the
hashes of the documents before. So the decisions do not depend on where and by
how many processes documents are examined.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import (
  Callable,
  Container,
  Generator,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
from typing import Any, ClassVar, NamedTuple

from moejax.core import errors, fields
from moejax.data import long_text, workers

Text = str | long_text.LongText
DUPLICATE = 'duplicate'  # the rule of `FirstOfEqual`
JOB = 2**18  # characters that are examined at a time, about
_ALONE = 2**20  # characters that are examined before workers are started


@dataclasses.dataclass(frozen=True)
class Step(fields.Checked):
  """A step: keeps or removes documents. Its fields are its config keys."""

  __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

  def examine(self, text: str) -> Any:
    """What the step needs to know of a document; a value that pickles."""
    raise NotImplementedError

  def judge(self) -> Callable[[Any], str]:
    """A function from `examine`'s values to decisions, for one pass.

    It is called once for every document that reaches the step, in the order of
    the text. It returns the rule by which the document is removed, or '' if the
    document is kept.
    """
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Filter(Step):
  """A step that decides about each document by itself."""

  def judge(self) -> Callable[[Any], str]:
    return str


@dataclasses.dataclass(frozen=True)
class FirstOfEqual(Step):
  """A step that keeps the first of the documents with equal values.

  `examine` gives the values, which are bytes.
  """

  def judge(self) -> Callable[[bytes], str]:
    seen: set[bytes] = set()

    def decide(value: bytes) -> str:
      if value in seen:
        return DUPLICATE
      seen.add(value)
      return ''

    return decide


class Examined(NamedTuple):
  """What the steps know of one document.

  Attributes:
    num_bytes: UTF-8 bytes of its text.
    values: the value of each step; ends at the first `Filter` that removes the
      document.
  """

  num_bytes: int
  values: tuple[Any, ...]


@dataclasses.dataclass
class Removed:
  """What a step removed.

  Attributes:
    step: the step's name.
    documents_before: documents that reached the step.
    bytes_before: UTF-8 bytes of their text.
    documents: those of them that were removed.
    bytes: bytes of these.
    rules: documents removed, by rule.
  """

  step: str
  documents_before: int = 0
  bytes_before: int = 0
  documents: int = 0
  bytes: int = 0
  rules: dict[str, int] = dataclasses.field(default_factory=dict)

  def add(self, rule: str, num_bytes: int) -> None:
    """Counts a document, which is removed unless the rule is ''."""
    self.documents_before += 1
    self.bytes_before += num_bytes
    if rule:
      self.documents += 1
      self.bytes += num_bytes
      self.rules[rule] = self.rules.get(rule, 0) + 1

  def __add__(self, other: 'Removed') -> 'Removed':
    """What the step removed from two parts of a text, one after the other."""
    rules = dict(self.rules)
    for rule, count in other.rules.items():
      rules[rule] = rules.get(rule, 0) + count
    return Removed(
      self.step,
      self.documents_before + other.documents_before,
      self.bytes_before + other.bytes_before,
      self.documents + other.documents,
      self.bytes + other.bytes,
      rules,
    )


def examine(steps: Sequence[Step], text: Text) -> Examined:
  """All that the steps need to know of one document.

  Args:
    steps: in their order.
    text: the document; one that is read in pieces is read into memory.
  """
  whole = long_text.whole(text)
  values = []
  for step in steps:
    values.append(step.examine(whole))
    if isinstance(step, Filter) and values[-1]:
      break
  return Examined(len(whole.encode()), tuple(values))


@dataclasses.dataclass(frozen=True)
class Examiner:
  """The work of a process: examines the documents of a job."""

  steps: tuple[Step, ...]

  def __call__(self, texts: Sequence[Text]) -> list[Examined]:
    return [examine(self.steps, text) for text in texts]


def examined(
  steps: tuple[Step, ...], texts: Iterable[Text], processes: int
) -> Generator[tuple[Text, Examined]]:
  """Each document with what the steps know of it, in the order of the text.

  The first documents are examined by this process, so that a short text does
  not wait for processes to start.
  """
  rest = iter(texts)
  left = _ALONE
  for text in rest:
    yield text, examine(steps, text)
    left -= _size(text)
    if left <= 0 and processes > 1 and all(map(workers.can_be_sent, steps)):
      break
  else:
    return
  results = workers.in_order(_jobs(rest), Examiner(steps), processes)
  with contextlib.closing(results):
    for job, values in results:
      yield from zip(job, values, strict=True)


def _jobs(texts: Iterable[Text]) -> Iterator[list[Text]]:
  """Documents in groups of about JOB characters."""
  job: list[Text] = []
  size = 0
  for text in texts:
    job.append(text)
    size += _size(text)
    if size >= JOB:
      yield job
      job, size = [], 0
  if job:
    yield job


def _size(text: Text) -> int:
  return len(text) if isinstance(text, str) else text.num_bytes


class Pass:
  """One pass of steps over the documents of a text, or of a part of it.

  Args:
    steps: by name, in their order.
    repeated: for a part of a text, what is known of the whole: numbers of
      documents that equal an earlier one, among those that reach the step
      `FirstOfEqual`.
  """

  def __init__(
    self, steps: Mapping[str, Step], repeated: Container[int] | None = None
  ):
    self.steps = tuple(steps.values())
    self.removed = tuple(map(Removed, steps))
    self._judges = [
      _known(repeated)
      if repeated is not None and isinstance(step, FirstOfEqual)
      else step.judge()
      for step in self.steps
    ]

  def keeps(self, examined: Examined) -> bool:
    """Whether a document is kept. Call it in the order of the text.

    A document that one step removes does not reach the steps behind, so it is
    no earlier copy of a document that comes after it.
    """
    for removed, judge, value in zip(
      self.removed, self._judges, examined.values, strict=False
    ):
      rule = judge(value)
      removed.add(rule, examined.num_bytes)
      if rule:
        return False
    return True

  def kept(self, texts: Iterable[Text], processes: int = 1) -> Iterator[Text]:
    """The documents that are kept, in their order.

    Args:
      texts: the documents. With one process, none is read before it is needed.
      processes: that examine documents; 1 means that this process does.
    """
    results = examined(self.steps, texts, processes)
    with contextlib.closing(results):
      for text, values in results:
        if self.keeps(values):
          yield text

  @property
  def documents(self) -> int:
    """Documents that the pass has read."""
    return self.removed[0].documents_before

  @property
  def documents_kept(self) -> int:
    """Those that no step removed."""
    return self.documents - sum(removed.documents for removed in self.removed)

  def summary(self) -> str:
    """What was removed, in one line."""
    size = self.removed[0].bytes_before
    gone = sum(removed.bytes for removed in self.removed)
    counts = ', '.join(f'{r.step} {r.documents:,}' for r in self.removed)
    return (
      f'steps removed {self.documents - self.documents_kept:,} of '
      f'{self.documents:,} documents ({counts}), {gone / max(1, size):.1%} of '
      f'{size:,} bytes'
    )


def _known(repeated: Container[int]) -> Callable[[Any], str]:
  """The decisions of `FirstOfEqual`, by the numbers of repeated documents."""
  numbers = itertools.count()
  return lambda _: DUPLICATE if next(numbers) in repeated else ''


def need_order(
  step: str, low: tuple[str, float], high: tuple[str, float]
) -> None:
  """Raises InputError unless a least value is at most the largest.

  Args:
    step: name of the step.
    low: key and value of the least value.
    high: key and value of the largest.
  """
  if low[1] > high[1]:
    raise errors.InputError(
      f'{low[0]}={low[1]} is above {high[0]}={high[1]}: {step} would remove '
      'every document'
    )
