"""The contract of benchmarks: rows become items, and items become scores.

  row        a question as it is published: a dict with the dataset's columns
  item       what a model is asked: a `Choice`, a `Cloze` or a `Prompt`
  engine     answers items: likelihoods of continuations, and generated text
  values     {metric: value} of one item; a benchmark's score is their mean

A `Benchmark` says where its rows are, how a row becomes an item, which solved
rows are shown before it, and which metric counts. moejax/evals/benchmarks/ has
one file for each family of them, and the table BENCHMARKS.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from moejax.core.errors import InputError
from moejax.evals.picture import Picture

Row = Mapping[str, Any]
Values = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Choice:
  """A question whose most probable option is the model's answer.

  Attributes:
    contexts: the text before each option: mostly the same for all of them, but
      in WinoGrande the context differs and the option does not.
    options: the text that is scored after each context, with the delimiter
      between both, which is mostly a space at its beginning.
    answer: index of the right option.
    texts: the options without delimiter, whose lengths normalise `acc_norm`
      and `acc_bytes`; empty: the options, stripped.
    group: what the benchmark averages by beside the whole, such as a subject.
    unconditional: the text before each option for `acc_mutual`, which subtracts
      the option's log-probability without the question; None: not computed.
  """

  contexts: tuple[str, ...]
  options: tuple[str, ...]
  answer: int
  texts: tuple[str, ...] = ()
  group: str = ''
  unconditional: str | None = None

  def __post_init__(self) -> None:
    if len(self.contexts) != len(self.options):
      raise InputError(
        f'{len(self.contexts)} contexts for {len(self.options)} options: an '
        'item needs one context for each option'
      )
    if not 0 <= self.answer < len(self.options):
      raise InputError(
        f'the answer is option {self.answer} of {len(self.options)}, counted '
        'from 0: correct the answer of the row'
      )
    for number, option in enumerate(self.options):
      if not option.strip():
        raise InputError(
          f'option {number} is empty: a likelihood needs text, so complete or '
          'remove the row'
        )


@dataclasses.dataclass(frozen=True)
class Cloze:
  """A text whose end is to be predicted, as in LAMBADA.

  Attributes:
    context: the text before.
    target: its end, with the space before it.
    group: as in `Choice`.
  """

  context: str
  target: str
  group: str = ''


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A text to continue freely, and how its continuation is judged.

  Exactly one of `judge` and `program` is set; moejax/evals/judges.py applies
  them.

  Attributes:
    text: the prompt.
    judge: the values of a continuation, such as {'exact_match': 1.0}.
    program: the Python program that judges a continuation by running: its value
      is {'pass@1': 1.0} if it ends without an exception. It contains code that
      a model wrote, so it runs only in moejax/evals/sandbox.py.
    stops: strings that end the continuation, which are cut off.
    max_tokens: most tokens of the continuation.
    group: as in `Choice`.
    unit: what the item is a part of, for scores of all items together.
    images: the images of the text, in the order of the <image> in it, or before
      all of it if it has none.
  """

  text: str
  judge: Callable[[str], Values] | None = None
  stops: tuple[str, ...] = ()
  max_tokens: int = 256
  group: str = ''
  program: Callable[[str], str] | None = None
  unit: str = ''
  images: tuple[Picture, ...] = ()


Item = Choice | Cloze | Prompt


@dataclasses.dataclass(frozen=True)
class Likelihood:
  """How probable a continuation is.

  Attributes:
    log_prob: sum over its tokens, in nats.
    greedy: whether each of its tokens was the most probable one.
    tokens: number of its tokens.
  """

  log_prob: float
  greedy: bool
  tokens: int


class Engine(Protocol):
  """A model that answers items."""

  def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
    """That of each continuation after its context: (context, continuation)."""
    ...

  def generate(
    self, prompts: Sequence[Prompt], sampling: Any = ..., seed: int = ...
  ) -> list[str]:
    """The continuation of each prompt, cut at its first stop string.

    It is greedy unless `sampling`, a `moejax.evals.sampling.Sampling`, is set.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Where rows come from, and the columns that the benchmark reads.

  Attributes:
    hub: repository on the Hugging Face hub, such as 'Rowan/hellaswag'; '' if
      the rows are not there: the project's own, or files of another site, which
      the benchmark's note names.
    config: its configuration; '' for the only one.
    configs: several configurations in place of one. Their rows are read one
      after the other, and each gets its configuration's name as the column
      `config`.
    config_names: other names of configurations, which their folders may have.
    images: columns that hold images; items find a `Picture` there, or None.
    split: the split that is scored.
    shots_split: the split that solved rows are taken from; '' if none.
    columns: the type of each column that is read.
    tfds: name in TensorFlow Datasets; '' if it is not there.
    rows: split -> rows, where the project makes them itself; None if they are
      read.
  """

  hub: str
  config: str
  split: str
  columns: Mapping[str, type | tuple[type, ...]]
  shots_split: str = ''
  tfds: str = ''
  configs: tuple[str, ...] = ()
  rows: Callable[[str], Sequence[Row]] | None = None
  config_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
  images: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """How a dataset's rows are asked and scored.

  Attributes:
    dataset: the rows.
    item: row -> item, without shots. None for a row that is left out.
    metric: the value that counts, a key of the items' values.
    show: row -> the text of a solved row, which is put before the question;
      None where no shots are possible.
    shots: number of solved rows.
    between: the text between solved rows, and before the question.
    header: row -> the text before the first solved row.
    first: whether the shots are the first rows of their split, the same for
      every item; else they are drawn for each.
    shots_by_group: whether solved rows are taken from those of the item's group
      alone, such as its subject.
    group_mean: whether the score is the mean of the groups' scores, which all
      count the same; else it is the mean over items.
    arrange: what is done to the rows of a split together, before each of them
      becomes an item; for example, rows about one article learn of each other.
    fixed: rows of the shots' split -> the rows that are shown for every item,
      in their order, as many as `shots`; None: by `first`.
    totals: values of all items together, from the items and the value of each
      of them by metric; they have no standard error.
    note: what the reader of a score should know, in a sentence.
  """

  dataset: Dataset
  item: Callable[[Row], Item | None]
  metric: str
  show: Callable[[Row], str] | None = None
  shots: int = 0
  between: str = '\n\n'
  header: Callable[[Row], str] = lambda _: ''
  first: bool = False
  shots_by_group: bool = False
  group_mean: bool = False
  arrange: Callable[[Sequence[Row]], Sequence[Row]] = lambda rows: rows
  fixed: Callable[[Sequence[Row]], Sequence[Row]] | None = None
  totals: Callable[[Sequence[Any], Mapping[str, Any]], Values] | None = None
  note: str = ''
