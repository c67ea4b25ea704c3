"""Cases of benchmarks that are scored by generated text.

Rows are written to a folder in the published schema and go the way of all rows:
loading, solved rows, prompts, judging. A test file of a family has a list
CASES, and one test that gives each to `check`.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from moejax.evals import prompts, suite
from moejax.evals.benchmarks import SUITES

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class GeneratedCase:
  """A benchmark on rows that were written for its test.

  Attributes:
    suite: name in SUITES.
    name: name of the benchmark in the suite.
    rows: rows in the published schema; those of a benchmark with
      configurations name theirs as `config`.
    texts: the prompts, written by hand.
    outputs: what the engine writes after each prompt.
    means: the mean of each value, worked by hand.
    solved: rows of the split that solved rows come from, if it is another.
    programs: the programs that run, written by hand, and whether they pass.
  """

  suite: str
  name: str
  rows: Sequence[Row]
  texts: Sequence[str]
  outputs: Sequence[str]
  means: Mapping[str, float]
  solved: Sequence[Row] = ()
  programs: Mapping[str, bool] | None = None

  def __str__(self) -> str:
    return f'{self.suite}/{self.name}'


class Writer:
  """An engine that writes fixed texts, cut at stop strings as engines cut."""

  def __init__(self, outputs):
    self.outputs = outputs

  def likelihoods(self, pairs):
    raise AssertionError('this benchmark is scored by generated text')

  def generate(self, asked):
    texts = []
    for prompt, text in zip(asked, self.outputs, strict=True):
      for stop in prompt.stops:
        text = text.split(stop)[0]
      texts.append(text)
    return texts


def write_rows(folder, name: str, split: str, rows: Sequence[Row]) -> list[str]:
  """Writes rows to JSONL files; returns the names of their configurations."""
  by_config: dict[str, list[Row]] = {}
  for row in rows:
    columns = {key: value for key, value in row.items() if key != 'config'}
    by_config.setdefault(row.get('config', ''), []).append(columns)
  for config, listed in by_config.items():
    path = folder / name / config / f'{split}.jsonl'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(row) + '\n' for row in listed))
  return [config for config in by_config if config]


def asked(folder, case: GeneratedCase) -> prompts.Asked:
  """The prompts of a case."""
  benchmark = SUITES[case.suite][case.name]
  dataset = benchmark.dataset
  configs = write_rows(folder, case.name, dataset.split, case.rows)
  if case.solved:
    write_rows(folder, case.name, dataset.shots_split, case.solved)
  if dataset.configs:
    assert set(configs) <= set(dataset.configs)
    dataset = dataclasses.replace(dataset, configs=tuple(configs))
    benchmark = dataclasses.replace(benchmark, dataset=dataset)
  return prompts.ask(case.name, benchmark, str(folder))


def check(folder, case: GeneratedCase) -> None:
  """Compares a case's prompts and values with those written by hand."""
  questions = asked(folder, case)
  assert [item.text for item in questions.items] == list(case.texts)
  run = None
  if case.programs is not None:
    run = lambda programs: [case.programs[program] for program in programs]
  result = suite.score(questions, Writer(case.outputs), run)
  assert result.means == case.means
  assert result.metric in result.means
