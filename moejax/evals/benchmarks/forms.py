"""Forms that many benchmarks share: options as text, lettered options, shots.

Each suite asks in its own way:
  lm_eval      EleutherAI's lm-evaluation-harness 0.4.13, as its task files say.
  deepseekmoe  the formats of DeepSeek-V2's report (arXiv 2405.04434), appendix
               G, with the number of solved rows of DeepSeekMoE (arXiv
               2401.06066), Tables 1 to 4. An option counts by its perplexity,
               that is by the mean log-probability of its tokens. Both reports
               share their evaluation framework; that the formats of 2024's
               January and May are the same is an assumption.
  libmoe       LibMoE (arXiv 2411.00918) and arXiv 2505.10860: no solved rows,
               options as text, and a tie is wrong.
"""

from collections.abc import Callable, Sequence
from typing import Any

from moejax.core.errors import InputError
from moejax.evals.benchmark import Benchmark, Choice, Dataset, Row

LETTERS = 'ABCDEFGHIJ'


def position(value: Any, names: Sequence[Any], column: str) -> int:
  """The index of a row's answer among the names of its options.

  Raises:
    InputError: the answer is none of them; the message names the column.
  """
  if value not in list(names):
    raise InputError(
      f'the column {column!r} is {value!r}, which is none of '
      f'{", ".join(map(repr, names))}: correct the answer of the row'
    )
  return list(names).index(value)


def choice(
  context: str,
  texts: Sequence[str],
  answer: int,
  group: str = '',
  delimiter: str = ' ',
) -> Choice:
  """A question whose options are texts, each after the same context.

  Args:
    context: the question, without space at its end.
    texts: the options.
    answer: index of the right one.
    group: as in `Choice`.
    delimiter: what stands between context and option.
  """
  return Choice(
    contexts=(context,) * len(texts),
    options=tuple(delimiter + text for text in texts),
    answer=answer,
    texts=tuple(texts),
    group=group,
  )


def lettered(
  question: str, texts: Sequence[str], cue: str, answer: int, group: str = ''
) -> Choice:
  """A question that lists its options as `A. text`; the letters are scored.

  Args:
    question: the text above the options.
    texts: the options.
    cue: the line below them, such as 'Answer:'.
    answer: index of the right option.
    group: as in `Choice`.

  Raises:
    InputError: an option is empty or missing.
  """
  for number, text in enumerate(texts):
    if text is None or not str(text).strip():
      raise InputError(
        f'option {number} is {text!r}: each option needs a text, so complete '
        'or remove the row'
      )
  letters = LETTERS[: len(texts)]
  lines = [f'{name}. {text}' for name, text in zip(letters, texts, strict=True)]
  return choice('\n'.join((question, *lines, cue)), letters, answer, group)


def question_answer(question: str, texts: Sequence[str], answer: int) -> Choice:
  """The harness's plainest form: `Question: ...`, a new line, `Answer:`."""
  return choice(f'Question: {question}\nAnswer:', texts, answer)


def multiple_choice(
  dataset: Dataset,
  item: Callable[[Row], Choice | None],
  metric: str = 'acc',
  **fields: Any,
) -> Benchmark:
  """A benchmark whose solved rows are its questions with the right options.

  Args:
    dataset: the rows.
    item: row -> question.
    metric: the value that counts.
    **fields: the other fields of `Benchmark`.
  """

  def show(row: Row) -> str:
    question = item(row)
    if question is None:
      raise InputError('a row that is left out cannot be shown as a solved one')
    return (
      question.contexts[question.answer] + question.options[question.answer]
    )

  return Benchmark(dataset, item, metric, show=show, **fields)
