"""CodeMMLU (arXiv 2410.01999): questions about code with 2 to 7 options.

The model writes an answer, and a letter is extracted from it in two ways, which
are both reported:

  official   as the authors' package does, with three faults: its patterns match
             the words after `answer is` and before `is correct` within words
             and in any case (`the answer is because` is b, and `the code is
             correct` is e, which equal no answer), it takes the first capital
             letter from A to E of any other text (`Answer:` is A), and it knows
             no F and G.
  strict     the last letter, as a word of its own and in upper case, of an
             option of the question, that the text names as its answer.

`letters` is scored by likelihood, and its numbers differ from those of
generated answers. Models prefer some positions: `permuted` and
`letters_permuted` ask each question once for each cyclic shift of its options,
which puts the right one at each position once. Their score is the mean, and
their groups are the positions of the right option, so the differences between
groups are the bias.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from moejax.core.errors import InputError
from moejax.evals.benchmark import (
  Benchmark,
  Choice,
  Dataset,
  Prompt,
  Row,
  Values,
)
from moejax.evals.benchmarks import codemmlu_prompts as texts
from moejax.evals.benchmarks.forms import position

ROWS = Dataset(
  'Fsoft-AIC/CodeMMLU',
  '',
  'test',
  {'task_id': str, 'question': str, 'choices': list, 'answer': str},
  configs=tuple(texts.KINDS),
  config_names={texts.HUB_NAME: texts.PAPER_NAME},
)
LETTERS = 'ABCDEFG'
STOPS = ('\n\nQ:', '\n\nQuestion:', '\n\n###', '\n#', '\n<|/', '\n```')
SHIFT = 'shift'
RATIONALE = 'rationale'
# The first two patterns of the package, and what it removes from a match.
ANSWER_IS = re.compile(r'answer is (\(*[A-E][\).]*)', re.I)
IS_CORRECT = re.compile(r'(\(*[A-E][\).]*) is correct', re.I)
BRACKETS = str.maketrans('', '', '().')
LETTER = r'\(?\b([A-G])\b\)?'
NAMED = re.compile(
  rf'(?i:\b(?:answer|option|choice)(?:\s+is\s*:?|\s*:))\s*\**{LETTER}'
  rf'|{LETTER}\**\s+is\s+(?:the\s+)?(?:correct|right)\b'
)
ALONE = re.compile(r'\s*\**(?:\(([A-G])\)|([A-G])(?=[.):,]|\s*$|\s*\n))')


# Answers


def official(text: str) -> str | None:
  """The letter that the authors' package extracts; see above for its faults."""
  match = ANSWER_IS.search(text) or IS_CORRECT.search(text)
  if match:
    return match[1].translate(BRACKETS)
  letters = re.findall('[A-E]', text)
  return letters[0] if letters else None


def strict(text: str, letters: str = LETTERS) -> str | None:
  """The letter that a text names as its answer; the last one, if several.

  Else the letter that the text begins with, alone or before a mark, as in
  `(B)`, `B.` or `B`. None if there is none, or if no option has it.
  """
  named = [match[1] or match[2] for match in NAMED.finditer(text)]
  if not named and (match := ALONE.match(text)):
    named = [match[1] or match[2]]
  return named[-1] if named and named[-1] in letters else None


def judge(right: str, letters: str) -> Callable[[str], Values]:
  """Whether each extraction has the right letter, and which letter is chosen.

  `chose_A` is 1 if the strict extraction has A, and so on for each letter.
  """

  def values(text: str) -> Values:
    chosen = strict(text, letters)
    return {
      'strict': float(chosen == right),
      'official': float(official(text) == right),
      **{f'chose_{each}': float(chosen == each) for each in LETTERS},
    }

  return values


# Questions


def subset(row: Row) -> str:
  """The subset of a row, as the hub names it.

  Raises:
    InputError: the subset is unknown.
  """
  name = row.get('config', '')
  name = texts.HUB_NAME if name == texts.PAPER_NAME else name
  if name not in texts.KINDS:
    raise InputError(
      f"the column 'config' is {name!r}, which is no subset of CodeMMLU: name "
      f'the folder or file of the rows after one of {", ".join(texts.KINDS)}'
    )
  return name


def shifted(row: Row) -> tuple[list[str], int]:
  """The options after the row's cyclic shift, and the right one's index.

  Raises:
    InputError: too few or too many options, an empty one, or a wrong answer.
  """
  choices = row['choices']
  if not 2 <= len(choices) <= len(LETTERS):
    raise InputError(
      f"the column 'choices' has {len(choices)} options, not 2 to "
      f'{len(LETTERS)}: correct the row'
    )
  for letter, choice in zip(LETTERS, choices, strict=False):
    if not choice.strip():
      raise InputError(
        f"option {letter} of the column 'choices' is empty: complete or remove "
        'the row'
      )
  answer = position(row['answer'], LETTERS[: len(choices)], 'answer')
  shift = row.get(SHIFT, 0)
  # The option at position i moves to i + shift, and the last ones to the front.
  cut = len(choices) - shift
  return [*choices[cut:], *choices[:cut]], (answer + shift) % len(choices)


def shifts(rows: Sequence[Row]) -> list[Row]:
  """Each row once for each cyclic shift of its options."""
  return [
    {**row, SHIFT: shift}
    for row in rows
    for shift in range(max(len(row['choices']), 1))
  ]


def question(row: Row, mode: str) -> tuple[str, str, int]:
  """The prompt without header, the letters of the options, the right index."""
  name = subset(row)
  choices, answer = shifted(row)
  letters = LETTERS[: len(choices)]
  columns = {
    'question': row['question'],
    'choices': texts.options(letters, choices),
    'problem_description': row.get('problem_description') or '',
  }
  if name == 'fill_in_the_middle' and not columns['problem_description']:
    raise InputError(
      "the column 'problem_description' is missing or empty: each row of "
      'fill_in_the_middle has one; check the version of the data'
    )
  return texts.question(name, mode, columns), letters, answer


def group(row: Row, letter: str) -> str:
  """The subset, or the right option's position where options are shifted."""
  return f'right option at {letter}' if SHIFT in row else subset(row)


def written(mode: str, max_tokens: int) -> Callable[[Row], Prompt]:
  """Asks for a written answer in one of the paper's modes."""

  def item(row: Row) -> Prompt:
    text, letters, answer = question(row, mode)
    right = letters[answer]
    return Prompt(
      text, judge(right, letters), STOPS, max_tokens, group(row, right)
    )

  return item


def letter(row: Row) -> Choice:
  """The zero-shot question, whose letters are scored by likelihood."""
  text, letters, answer = question(row, texts.ZERO_SHOT)
  return Choice(
    contexts=(text.rstrip(),) * len(letters),
    options=tuple(f' {each}' for each in letters),
    answer=answer,
    texts=tuple(letters),
    group=group(row, letters[answer]),
  )


def solved(mode: str) -> Callable[[Row], str]:
  """A row with its answer, and with its reasoning if it has a column for it."""

  def show(row: Row) -> str:
    text, letters, answer = question(row, mode)
    reasoning = row.get(RATIONALE) or ''
    if mode == texts.COT_FEW_SHOT and reasoning:
      text = f'{text.rstrip()} {reasoning}\n'
    elif not text.endswith(' '):
      text += ' '
    return f'{text}The answer is ({letters[answer]}).'

  return show


def benchmark(
  mode: str, max_tokens: int, *, shots: int = 0, **fields: Any
) -> Benchmark:
  """CodeMMLU by written answers in one of the paper's modes."""
  return Benchmark(
    ROWS,
    written(mode, max_tokens),
    'strict',
    show=solved(mode),
    shots=shots,
    shots_by_group=bool(shots),
    header=lambda row: texts.header(subset(row), mode),
    **fields,
  )


def by_letters(**fields: Any) -> Benchmark:
  """CodeMMLU by the likelihood of letters."""
  return Benchmark(
    ROWS,
    letter,
    'acc',
    header=lambda row: texts.header(subset(row), texts.ZERO_SHOT),
    **fields,
  )


LIKELIHOOD = (
  'scored by the likelihood of letters, which gives other numbers than the '
  "authors' extraction from generated answers"
)
PERMUTED = (
  'the mean over all cyclic shifts of the options; groups are positions of the '
  'right option; the standard error takes shifts for independent items, and so '
  'is too small'
)
FEW = (
  'the solved row is another one of the subset, drawn, in place of the worked '
  'example of the authors'
)
COT_FEW = f'{FEW}; its reasoning is shown if a column `rationale` has it'
DIRECT_TOKENS, COT_TOKENS = 128, 1024

CODEMMLU = {
  'cot_few_shot': benchmark(
    texts.COT_FEW_SHOT, COT_TOKENS, shots=1, note=COT_FEW
  ),
  'cot_zero_shot': benchmark(texts.COT_ZERO_SHOT, COT_TOKENS),
  'few_shot': benchmark(texts.FEW_SHOT, DIRECT_TOKENS, shots=1, note=FEW),
  'letters': by_letters(note=LIKELIHOOD),
  'letters_permuted': by_letters(
    arrange=shifts, note=f'{LIKELIHOOD}; {PERMUTED}'
  ),
  'permuted': benchmark(
    texts.ZERO_SHOT, DIRECT_TOKENS, arrange=shifts, note=PERMUTED
  ),
  'zero_shot': benchmark(texts.ZERO_SHOT, DIRECT_TOKENS),
}
