"""Cases of benchmarks: rows, and items and a score that were worked by hand.

A test file of a family of benchmarks has a list CASES, and one test that gives
each to `check`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from moejax.evals.benchmark import Choice, Cloze, Item, Likelihood
from moejax.evals.benchmarks import SUITES
from moejax.evals.items import (
  likelihood_values,
  make_item,
  pairs,
  with_shots,
)

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
  """A benchmark on rows that were written for its test.

  Attributes:
    suite: name in SUITES.
    name: name of the benchmark in the suite.
    rows: rows in the published schema.
    items: their items, written by hand; None for a row that is left out.
    engine: what the engine answers: {continuation, or its pair with a context:
      (log-probability, number of tokens)}.
    score: the benchmark's metric, worked by hand.
    solved: rows that are shown before each item.
  """

  suite: str
  name: str
  rows: Sequence[Row]
  items: Sequence[Item | None]
  engine: Mapping[str | tuple[str, str], tuple[float, int]]
  score: float
  solved: Sequence[Row] = ()

  def __str__(self) -> str:
    return f'{self.suite}/{self.name}'


class FakeEngine:
  """Answers with likelihoods from a table, and fails at a pair not in it."""

  def __init__(self, table):
    self.table = table

  def likelihoods(self, asked):
    return [
      Likelihood(log_prob, log_prob > -1, tokens)
      for pair in asked
      for log_prob, tokens in [
        self.table[pair if pair in self.table else pair[1]]
      ]
    ]

  def generate(self, prompts):
    raise AssertionError('this benchmark generates nothing')


def mean(values: Sequence[float]) -> float:
  return sum(values) / len(values)


def score(benchmark, items: Sequence[Choice | Cloze], engine) -> float:
  """The benchmark's metric: the mean over items, or over groups' means."""
  groups: dict[str, list[float]] = {}
  for item in items:
    values = likelihood_values(item, engine.likelihoods(pairs(item)))
    group = item.group if benchmark.group_mean else ''
    groups.setdefault(group, []).append(values[benchmark.metric])
  return mean([mean(values) for values in groups.values()])


def check(case: Case) -> None:
  """Compares a case's items and score with those written by hand."""
  benchmark = SUITES[case.suite][case.name]
  rows = benchmark.arrange(case.rows)
  items = [
    item and with_shots(benchmark, row, item, case.solved)
    for row in rows
    for item in [make_item(benchmark, row, str(case))]
  ]
  assert items == list(case.items)
  asked = [item for item in items if item is not None]
  assert score(benchmark, asked, FakeEngine(case.engine)) == case.score
