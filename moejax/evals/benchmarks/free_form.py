"""Forms of benchmarks with freely written answers; suites as in `forms`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from moejax.core.errors import InputError
from moejax.evals.benchmark import Benchmark, Dataset, Prompt, Row


def longer(
  item: Callable[[Row], Prompt], max_tokens: int = 512
) -> Callable[[Row], Prompt]:
  """Prompts whose continuations may have more than the harness's 256 tokens."""

  @functools.wraps(item)
  def longer_item(row: Row) -> Prompt:
    return dataclasses.replace(item(row), max_tokens=max_tokens)

  return longer_item


def generated(
  dataset: Dataset,
  item: Callable[[Row], Prompt | None],
  answer: Callable[[Row], str],
  metric: str = 'exact_match',
  **fields: Any,
) -> Benchmark:
  """A benchmark whose solved rows are its prompts with right answers.

  Args:
    dataset: the rows.
    item: row -> prompt.
    answer: row -> what follows the prompt in a solved row, with the space or
      the new line before it.
    metric: the value that counts.
    **fields: the other fields of `Benchmark`.
  """

  def show(row: Row) -> str:
    prompt = item(row)
    if prompt is None:
      raise InputError('a row that is left out cannot be shown as a solved one')
    return prompt.text + answer(row)

  return Benchmark(dataset, item, metric, show=show, **fields)
