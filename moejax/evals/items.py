"""From a row to an item, from an item to pairs of texts, and to its values.

An engine scores pairs (context, continuation). `pairs` lists those of an item,
and `likelihood_values` makes the item's values from their likelihoods:

  acc               the option of the largest log-probability is the right one
  acc_norm          ... of log-probability divided by characters of the option
  acc_bytes         ... divided by bytes (UTF-8) of the option
  acc_token         ... divided by tokens: the option of the lowest perplexity
  acc_strict        as `acc`, but a tie is wrong
  acc_token_strict  as `acc_token`, but a tie is wrong
  acc_mutual        ... minus that of the option without the question
  nll               of a `Cloze`: minus its log-probability, in nats

At a tie the first of the options is the answer, as in EleutherAI's harness;
LibMoE calls a tie wrong. A `Cloze` has the values `acc` (each token of its
target was the most probable one) and `nll`; the exponential of the mean of
`nll` is the perplexity of targets.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from moejax.core.errors import InputError
from moejax.evals.benchmark import (
  Benchmark,
  Choice,
  Cloze,
  Dataset,
  Item,
  Likelihood,
  Prompt,
  Row,
  Values,
)


def check_row(dataset: Dataset, row: Row) -> None:
  """Checks that a row has the dataset's columns, in their types.

  Raises:
    InputError: a column is missing or has another type; the message names it.
  """
  for name, kind in dataset.columns.items():
    if name not in row:
      raise InputError(
        f'the row has no column {name!r}, only {", ".join(map(repr, row))}: '
        f'{dataset.hub or "the dataset"} publishes it; check the version of '
        'the data'
      )
    if not isinstance(row[name], kind):
      kinds = kind if isinstance(kind, tuple) else (kind,)
      raise InputError(
        f'the column {name!r} is of type {type(row[name]).__name__}, not '
        f'{" or ".join(k.__name__ for k in kinds)}: check the version of the '
        'data'
      )


def make_item(benchmark: Benchmark, row: Row, place: str) -> Item | None:
  """The item of a row, without solved rows before it.

  Args:
    benchmark: how rows are asked.
    row: a row that `benchmark.arrange` has seen.
    place: where the row is, for messages, such as 'hellaswag, row 3'.

  Raises:
    InputError: the row lacks a column, or its answer or an option is wrong; the
      message names the place.
  """
  try:
    check_row(benchmark.dataset, row)
    return benchmark.item(row)
  except InputError as error:
    raise InputError(f'{place}: {error}') from error


def with_shots(
  benchmark: Benchmark, row: Row, item: Item, solved: Sequence[Row]
) -> Item:
  """The item after the benchmark's header and its solved rows.

  Args:
    benchmark: how rows are asked and shown.
    row: the item's row, which the header may name the subject of.
    item: the item without solved rows.
    solved: the rows that are shown with their answers, in this order.
  """
  if solved and benchmark.show is None:
    raise InputError(
      f'{len(solved)} solved rows for a benchmark that has no form for them: '
      'set shots to 0'
    )
  shown = [benchmark.show(each) for each in solved] if benchmark.show else []
  start = benchmark.header(row)
  start += ''.join(text + benchmark.between for text in shown)
  if isinstance(item, Choice):
    contexts = tuple(start + context for context in item.contexts)
    return dataclasses.replace(item, contexts=contexts)
  if isinstance(item, Cloze):
    return dataclasses.replace(item, context=start + item.context)
  return dataclasses.replace(item, text=start + item.text)


def pairs(item: Choice | Cloze) -> list[tuple[str, str]]:
  """The (context, continuation) of an item that likelihoods are needed of."""
  if isinstance(item, Cloze):
    return [(item.context, item.target)]
  asked = list(zip(item.contexts, item.options, strict=True))
  if item.unconditional is not None:
    asked += [(item.unconditional, option) for option in item.options]
  return asked


def likelihood_values(
  item: Choice | Cloze, likelihoods: Sequence[Likelihood]
) -> Values:
  """The values of an item, from the likelihoods of its `pairs`, in order."""
  if isinstance(item, Cloze):
    (target,) = likelihoods
    return {'acc': float(target.greedy), 'nll': -target.log_prob}
  count = len(item.options)
  scored = likelihoods[:count]
  texts = item.texts or tuple(option.strip() for option in item.options)
  sums = [each.log_prob for each in scored]
  lengths: Mapping[str, list[int]] = {
    'acc_norm': [len(text) for text in texts],
    'acc_bytes': [len(text.encode()) for text in texts],
    'acc_token': [each.tokens for each in scored],
  }
  scores = {'acc': sums} | {
    name: [value / max(n, 1) for value, n in zip(sums, length, strict=True)]
    for name, length in lengths.items()
  }
  if item.unconditional is not None:
    scores['acc_mutual'] = [
      value - each.log_prob
      for value, each in zip(sums, likelihoods[count:], strict=True)
    ]
  values = {
    name: float(score.index(max(score)) == item.answer)
    for name, score in scores.items()
  }
  for name in ('acc', 'acc_token'):
    values[f'{name}_strict'] = values[name] * (
      scores[name].count(max(scores[name])) == 1
    )
  return values


def is_scored_by_likelihood(item: Item) -> bool:
  """Whether `pairs` and `likelihood_values` apply; else text is generated."""
  return not isinstance(item, Prompt)
