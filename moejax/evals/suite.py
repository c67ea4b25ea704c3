"""Results of benchmarks: values of items, their means, errors and groups.

  asked = prompts.ask('hellaswag', BENCHMARKS['hellaswag'], 'hub', limit=100)
  result = score(asked, engine)
  result.score, result.stderr

A result keeps the values of every item, so that two runs can be compared item
by item (evals/paired.py). It is written as JSON.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from moejax.core import errors
from moejax.core import table as tables
from moejax.evals import items as items_lib
from moejax.evals import judges
from moejax.evals.benchmark import Benchmark, Engine, Item, Prompt, Values
from moejax.evals.draws import GREEDY, Draws
from moejax.evals.prompts import Asked

# Metrics that are no shares: nats of a target, and their exponential.
NLL, PERPLEXITY = 'nll', 'perplexity'


@dataclasses.dataclass(frozen=True)
class Result:
  """What a model scored in a benchmark.

  Attributes:
    benchmark: name of the benchmark.
    metric: the metric that counts.
    means: the mean of each metric; `perplexity` is exp of the mean of `nll`.
    errors: the standard error of each mean, the sample's standard deviation
      over the root of the number of items; None for a single item.
    groups: the means of each group of items, with `items`, their number.
    values: the value of each item, in order, of each metric; None where an
      item has none.
    items: number of items.
    left_out: number of rows that were not asked.
    cut: number of texts that were cut because they were longer than the
      context.
    shots: number of solved rows before each question.
    digest: see `Asked`.
    note: what the reader of a score should know.
    samples: continuations of each prompt, whose values are their means.
    temperature: of the continuations; 0 for the most probable tokens, and where
      nothing is generated.
  """

  benchmark: str
  metric: str
  means: dict[str, float]
  errors: dict[str, float | None]
  groups: dict[str, dict[str, float]]
  values: dict[str, list[float | None]]
  items: int
  left_out: int
  cut: int
  shots: int
  digest: str
  note: str
  samples: int = 1
  temperature: float = 0.0

  @property
  def score(self) -> float:
    """The mean of the metric that counts."""
    return self.means[self.metric]

  @property
  def stderr(self) -> float | None:
    """Its standard error."""
    return self.errors[self.metric]

  def to_json(self) -> dict[str, Any]:
    """The result as JSON."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, value: Mapping[str, Any]) -> 'Result':
    """The result that `to_json` wrote.

    Raises:
      TypeError: fields are missing, or there are unknown ones.
    """
    return cls(**value)


def choose(
  suites: Mapping[str, Mapping[str, Benchmark]],
  suite: str,
  names: Sequence[str] = (),
) -> dict[str, Benchmark]:
  """The benchmarks of a suite that are named, or all of them.

  Raises:
    InputError: an unknown suite or benchmark; the message has the nearest.
  """
  known = tables.lookup('suite', suites, suite)
  for name in names:
    if name not in known:
      raise tables.unknown(f'task of suite {suite}', name, known)
  return {name: known[name] for name in names} if names else dict(known)


def check_programs(asked: Sequence[Item], run: judges.Run | None) -> None:
  """Raises InputError, before text is generated, if programs may not run."""
  programs = [x for x in asked if isinstance(x, Prompt) and x.program]
  if programs and run is None:
    judges.values(programs, [['']] * len(programs), None)


def is_generated(asked: Sequence[Item]) -> bool:
  """Whether any of the items is answered by generated text."""
  return any(isinstance(item, Prompt) for item in asked)


def answer(
  asked: Sequence[Item],
  engine: Engine,
  run: judges.Run | None = None,
  draws: Draws = GREEDY,
) -> list[Values]:
  """The values of items; all of them are passed to the engine at once.

  Args:
    asked: items of any kinds.
    engine: the model.
    run: runs programs that a model wrote; None refuses to.
    draws: how prompts are continued.

  Raises:
    InputError: there are programs and `run` is None; nothing was generated.
  """
  check_programs(asked, run)
  values: dict[int, Values] = {}
  prompts = {i: x for i, x in enumerate(asked) if isinstance(x, Prompt)}
  pairs: list[tuple[str, str]] = []
  places: dict[int, slice] = {}
  for index, item in enumerate(asked):
    if not isinstance(item, Prompt):
      begin = len(pairs)
      pairs += items_lib.pairs(item)
      places[index] = slice(begin, len(pairs))
  likelihoods = engine.likelihoods(pairs) if pairs else []
  for index, place in places.items():
    item = asked[index]
    assert not isinstance(item, Prompt)
    values[index] = items_lib.likelihood_values(item, likelihoods[place])
  if prompts:
    texts = draws.texts(engine, [*prompts.values()])
    judged = judges.values([*prompts.values()], texts, run)
    values |= dict(zip(prompts, judged, strict=True))
  return [values[index] for index in range(len(asked))]


def score(
  asked: Asked,
  engine: Engine,
  run: judges.Run | None = None,
  cut: Callable[[], int] = lambda: 0,
  draws: Draws = GREEDY,
) -> Result:
  """Asks a model the items of a benchmark.

  Args:
    asked: the items.
    engine: the model.
    run: as in `answer`.
    draws: as in `answer`.
    cut: how many texts the engine has cut so far.

  Raises:
    InputError: as `answer`; or no item has the metric that counts.
  """
  if not is_generated(asked.items):
    draws = GREEDY
  before = cut()
  by_item = answer(asked.items, engine, run, draws)
  names = dict.fromkeys(name for values in by_item for name in values)
  benchmark = asked.benchmark
  columns = {name: [v.get(name) for v in by_item] for name in names}
  groups = _groups(asked.items, columns)
  summary = _summary(columns, groups if benchmark.group_mean else {})
  if benchmark.totals is not None:
    totals = benchmark.totals(asked.items, columns)
    summary |= {name: (value, None) for name, value in totals.items()}
  if benchmark.metric not in summary:
    raise errors.InputError(
      f'{asked.name} counts {benchmark.metric!r}, but its items have '
      f'{", ".join(summary)}'
    )
  return Result(
    benchmark=asked.name,
    metric=benchmark.metric,
    means={name: mean for name, (mean, _) in summary.items()},
    errors={name: error for name, (_, error) in summary.items()},
    groups={
      group: {'items': float(len(next(iter(own.values()))))}
      | {name: mean for name, (mean, _) in _summary(own, {}).items()}
      for group, own in groups.items()
    },
    values=columns,
    items=len(asked.items),
    left_out=asked.left_out,
    cut=cut() - before,
    shots=benchmark.shots,
    digest=asked.digest,
    note=benchmark.note,
    samples=draws.samples,
    temperature=draws.temperature,
  )


Columns = Mapping[str, Sequence[float | None]]


def _groups(
  asked: Sequence[Item], columns: Columns
) -> dict[str, dict[str, list[float | None]]]:
  """The columns of each group, by the group's name; {} without groups."""
  names = dict.fromkeys(item.group for item in asked)
  if [*names] == ['']:
    return {}
  return {
    name: {
      metric: [
        value
        for item, value in zip(asked, column, strict=True)
        if item.group == name
      ]
      for metric, column in columns.items()
    }
    for name in names
  }


def _summary(
  columns: Columns, groups: Mapping[str, Columns]
) -> dict[str, tuple[float, float | None]]:
  """The mean of each metric and its standard error.

  Args:
    columns: the values of all items.
    groups: those of groups that count the same; {} where items do.
  """
  summary = {}
  for name, column in columns.items():
    if groups:
      own = [mean_and_error(group[name]) for group in groups.values()]
      mean = float(np.mean([m for m, _ in own]))
      # The groups are independent, so the variances of their means add.
      squares = [None if e is None else e * e for _, e in own]
      error = (
        None
        if None in squares
        else math.sqrt(sum(x for x in squares if x is not None)) / len(own)
      )
    else:
      mean, error = mean_and_error(column)
    summary[name] = mean, error
  if NLL in summary:
    mean, error = summary[NLL]
    perplexity = math.exp(min(mean, 700.0))
    # d exp(x) = exp(x) dx
    summary[PERPLEXITY] = (
      perplexity,
      None if error is None else perplexity * error,
    )
  return summary


def mean_and_error(
  column: Sequence[float | None],
) -> tuple[float, float | None]:
  """The mean of the values that are there, and its standard error.

  Returns:
    The mean, and the sample's standard deviation (divisor n - 1) over the root
    of n; None if n is 1.
  """
  values = np.asarray([x for x in column if x is not None], np.float64)
  if len(values) < 2:
    return float(np.mean(values)), None
  return float(np.mean(values)), float(
    np.std(values, ddof=1) / math.sqrt(len(values))
  )
