"""DROP (arXiv 1903.00161): questions about a passage that need arithmetic.

An answer is a number, a date or spans of text. `em` and `f1` compare bags of
words, a bag for each span, after the best assignment of predicted to right
spans; a right span with a number counts only if the number is predicted.
"""

import re
import string
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from moejax.evals.benchmark import Dataset, Prompt, Row, Values
from moejax.evals.benchmarks.free_form import generated

ROWS = Dataset(
  'EleutherAI/drop',
  '',
  'validation',
  {'passage': str, 'question': str, 'answer': dict, 'validated_answers': dict},
  shots_split='train',
)
ARTICLES = re.compile(r'\b(a|an|the)\b')
PUNCTUATION = str.maketrans('', '', string.punctuation)
INSTRUCTION = (
  'Answer the following questions based on the above passage, please calculate '
  'carefully if calculation is necessary.'
)
SOLVED = 'solved'

Spans = tuple[str, ...]


# Answers


def spans(answer: Row) -> Spans:
  """The spans of an annotated answer: one, unless it is several spans."""
  if answer['number'] != '':
    return (str(answer['number']),)
  if len(answer['spans']):
    return tuple(answer['spans'])
  date = answer['date']
  return (' '.join((date['day'], date['month'], date['year'])).strip(),)


def kind(answer: Row) -> str:
  """The type of an answer: 'number', 'span' or 'date'."""
  if answer['number'] != '':
    return 'number'
  return 'span' if len(answer['spans']) else 'date'


def references(row: Row) -> list[Spans]:
  """The different answers of all annotators that are not empty."""
  others = row['validated_answers']
  answers = [row['answer']]
  for number, date, texts in zip(
    others['number'], others['date'], others['spans'], strict=True
  ):
    answers.append({'number': number, 'date': date, 'spans': texts})
  unique = dict.fromkeys(spans(answer) for answer in answers)
  return [each for each in unique if each[0].strip()]


# Comparison


def is_number(text: str) -> bool:
  """Whether Python reads the text as a number."""
  try:
    float(text)
  except ValueError:
    return False
  return True


def normal_word(word: str) -> str:
  """Lower case without punctuation and articles; 3 and 3.00 are 3.0."""
  word = word.lower()
  if not is_number(word):
    word = word.translate(PUNCTUATION)
  if is_number(word):
    word = str(float(word))
  return ' '.join(ARTICLES.sub(' ', word).split())


def normal(text: str) -> str:
  """A span with its words normalised; words end at spaces and hyphens."""
  words = (normal_word(word) for word in re.split('[ -]', text))
  return ' '.join(word for word in words if word)


def bag_f1(predicted: set[str], right: set[str]) -> float:
  """F1 of words, 0 if the right ones have numbers and none is predicted."""
  numbers = {word for word in right if is_number(word)}
  if numbers and not numbers & {word for word in predicted if is_number(word)}:
    return 0.0
  common = len(predicted & right)
  precision = common / len(predicted) if predicted else 1.0
  recall = common / len(right) if right else 1.0
  total = precision + recall
  return 2 * precision * recall / total if total else 0.0


def compare(predicted: Sequence[str], right: Sequence[str]) -> Values:
  """`em` and `f1` of predicted spans against one annotator's.

  f1 is the mean over the spans of the longer side, after the assignment of
  largest sum, and has two decimals as in DROP's own evaluation.
  """
  from scipy import optimize

  ours, theirs = [normal(s) for s in predicted], [normal(s) for s in right]
  exact = set(ours) == set(theirs) and len(ours) == len(theirs)
  table = np.array([
    [bag_f1({*p.split()}, {*r.split()}) for p in ours] for r in theirs
  ])
  rows, columns = optimize.linear_sum_assignment(table, maximize=True)
  f1 = float(table[rows, columns].sum()) / max(len(ours), len(theirs))
  return {'em': float(exact), 'f1': round(f1, 2)}


def best(predicted: Sequence[str], right: Sequence[Spans]) -> Values:
  """The best `em` and the best `f1` over all annotators."""
  values = [compare(predicted, each) for each in right]
  return {
    name: max((value[name] for value in values), default=0.0)
    for name in ('em', 'f1')
  }


# Forms


def plain(row: Row) -> Prompt:
  """The harness's form: passage, question, and up to the first full stop.

  The whole continuation is one predicted span.
  """
  right = references(row)
  return Prompt(
    f'{row["passage"]} {row["question"]}',
    lambda text: best([text], right),
    ('.',),
  )


def plain_answer(row: Row) -> str:
  """The right spans, right after the question."""
  return ','.join(references(row)[0])


def add_solved(rows: Sequence[Row]) -> list[Row]:
  """Each row gets `solved`, another one about its passage, or None.

  It is the one before it, and for the first of a passage the one after it.
  """
  groups: dict[str, list[int]] = defaultdict(list)
  for index, row in enumerate(rows):
    groups[row['passage']].append(index)
  solved: dict[int, Row] = {}
  for indices in groups.values():
    for before, index in zip(indices, indices[1:], strict=False):
      solved[index] = rows[before]
    if len(indices) > 1:
      solved[indices[0]] = rows[indices[1]]
  return [{**row, SOLVED: solved.get(index)} for index, row in enumerate(rows)]


def question(row: Row) -> str:
  """The question, and the sentence that its answer completes."""
  return (
    f'Q: {row["question"]}\nA: The answer type is {kind(row["answer"])}. '
    'So according to above Passage, the answer is'
  )


def after_solved(row: Row) -> Prompt:
  """The passage with another of its questions solved, then the question."""
  solved, right = row[SOLVED], references(row)
  shown = ''
  if solved:
    answer = ', '.join(spans(solved['answer']))
    shown = f'{question(solved)} {answer}.\n\n'

  def judge(text: str) -> Values:
    text = text.strip().removesuffix('.')
    # Several spans are written with commas between them.
    return best_of(best([text], right), best(text.split(', '), right))

  return Prompt(
    f'Passage: {row["passage"]}\n\n{INSTRUCTION}\n{shown}{question(row)}',
    judge,
    ('\n',),
  )


def best_of(*values: Values) -> Values:
  """The largest of each value."""
  return {name: max(value[name] for value in values) for name in values[0]}


DROP = generated(ROWS, plain, plain_answer, 'f1')
FIELDS: dict[str, Any] = {
  'arrange': add_solved,
  'note': (
    'one solved question, about the same passage; the type of the answer is '
    'told, as in the paper'
  ),
}
DEEPSEEKMOE = {
  'drop': generated(ROWS, after_solved, lambda _: '', 'em', **FIELDS),
}
