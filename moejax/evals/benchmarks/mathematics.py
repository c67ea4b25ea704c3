"""Mathematics: GSM8K (arXiv 2110.14168) and MATH (arXiv 2103.03874)."""

import re
from collections.abc import Sequence
from typing import Any

from moejax.core.errors import InputError
from moejax.evals import judges
from moejax.evals.benchmark import Dataset, Prompt, Row, Values
from moejax.evals.benchmarks import latex_answers
from moejax.evals.benchmarks.free_form import generated, longer

GSM8K_ROWS = Dataset(
  'openai/gsm8k',
  'main',
  'test',
  {'question': str, 'answer': str},
  shots_split='train',
  tfds='gsm8k',
)
MATH_ROWS = Dataset(
  'EleutherAI/hendrycks_math',
  '',
  'test',
  {'problem': str, 'solution': str, 'type': str},
  shots_split='train',
  configs=(
    'algebra',
    'counting_and_probability',
    'geometry',
    'intermediate_algebra',
    'number_theory',
    'prealgebra',
    'precalculus',
  ),
)
MARK = '#### '
# The beginnings of the four problems that Minerva's prompt solves (arXiv
# 2206.14858, appendix D), without space.
MINERVA = (
  r'Findthedomainoftheexpression$\frac{\sqrt{x-2}}{\sqrt{5-x}}$',
  r'If$\det\mathbf{A}=2$and$\det\mathbf{B}=12,$',
  'Terrellusuallyliftstwo20-poundweights',
  r'Ifthesystemofequations\begin{align*}6x-4y&=a,',
)


def parts(row: Row) -> tuple[str, str]:
  """The reasoning and the number of GSM8K's answer.

  Raises:
    InputError: the answer has no line with the number.
  """
  reasoning, mark, number = row['answer'].rpartition(MARK)
  if not mark or not number.strip():
    raise InputError(
      f"the column 'answer' must end with a line '{MARK}NUMBER', not "
      f'{row["answer"][-40:]!r}'
    )
  return reasoning.strip(), number.strip()


def gsm8k(row: Row) -> Prompt:
  """The harness's form: strict and flexible extraction."""
  return Prompt(
    f'Question: {row["question"]}\nAnswer:',
    judges.numbers(parts(row)[1]),
    ('Question:', '</s>', '<|im_end|>'),
  )


def reasoned_gsm8k(row: Row) -> Prompt:
  """A chain of thought that ends with a sentence."""
  return Prompt(
    f"Q: {row['question']}\nA: Let's think step by step.",
    judges.numbers(parts(row)[1], r'The answer is \$?'),
    ('\n\n', 'Q:'),
  )


def chain(row: Row) -> str:
  """The reasoning as sentences in a line, without its computed marks.

  Example: '3 + 4 = <<3+4=7>>7 pens' -> ' 3 + 4 = 7 pens. The answer is 7.'
  """
  reasoning, number = parts(row)
  lines = re.sub(r'<<.*?>>', '', reasoning).splitlines()
  sentences = [
    line if line.endswith(('.', '!', '?')) else f'{line}.'
    for line in map(str.strip, lines)
    if line
  ]
  return f' {" ".join(sentences)} The answer is {number}.'


def math_answer(row: Row) -> str:
  """The boxed answer of a solution.

  Raises:
    InputError: nothing is boxed.
  """
  answer = latex_answers.boxed(row['solution'])
  if answer is None:
    raise InputError(
      "the column 'solution' has no \\boxed{...} with the answer: "
      f'{row["solution"][-40:]!r}'
    )
  return answer


def math(row: Row) -> Prompt:
  """Minerva's form.

  `exact_match` takes the answer of the closing sentence, `boxed` that of the
  last box.
  """
  right = math_answer(row)

  def judge(text: str) -> Values:
    candidates = {
      'exact_match': latex_answers.final(text),
      'boxed': latex_answers.boxed(text),
    }
    return {
      name: float(answer is not None and latex_answers.equal(answer, right))
      for name, answer in candidates.items()
    }

  return Prompt(
    f'Problem:\n{row["problem"]}\n\nSolution:',
    judge,
    ('Problem:',),
    group=row['type'],
  )


def solution(row: Row) -> str:
  """The solution and Minerva's closing sentence."""
  return (
    f'{row["solution"]}\nFinal Answer: The final answer is '
    f'${math_answer(row)}$. I hope it is correct.'
  )


def minerva(rows: Sequence[Row]) -> list[Row]:
  """The rows that Minerva's prompt solves, in its order.

  Raises:
    InputError: a row is missing.
  """
  problems = {''.join(row['problem'].split()): row for row in rows}
  chosen = []
  for start in MINERVA:
    match = [row for text, row in problems.items() if text.startswith(start)]
    if not match:
      raise InputError(
        f'the solved rows of MATH lack the problem that begins with {start!r} '
        '(without space): read the training split of all its configurations'
      )
    chosen.append(match[0])
  return chosen


FOUR: dict[str, Any] = {
  'shots': 4,
  'fixed': minerva,
  'note': (
    'answers are equal as text or as numbers; without computer algebra, x+1 '
    'and 1+x differ'
  ),
}
GSM8K = generated(
  GSM8K_ROWS, gsm8k, lambda row: f' {row["answer"]}', 'exact_match', shots=5
)
MINERVA_MATH = generated(MATH_ROWS, math, lambda r: f' {solution(r)}', **FOUR)

DEEPSEEKMOE = {
  'gsm8k': generated(
    GSM8K_ROWS,
    longer(reasoned_gsm8k),
    chain,
    shots=8,
    first=True,
    note=(
      "the solved rows are the first eight of the training split; the paper's "
      'are eight others'
    ),
  ),
  'math': generated(
    MATH_ROWS, longer(math), lambda r: f'\n{solution(r)}', **FOUR
  ),
}
