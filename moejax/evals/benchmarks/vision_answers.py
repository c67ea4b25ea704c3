"""Judges of answers about images, and scores of all answers together.

Letters of options, yes or no, and short answers are found by the rules of the
benchmarks' own programs. Where these ask a paid model to judge, the value here
has `rule` in its name: it is that of the rules alone.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence

from moejax.evals import judges
from moejax.evals.benchmark import Prompt, Values

Judge = Callable[[str], Values]
Columns = Mapping[str, Sequence[float | None]]
LETTERS = 'ABCDEFGHI'
_NUMBER = re.compile(r'-?\d[\d,]*(?:\.\d+)?')
# The words that the evaluation of VQA (arXiv 1505.00468) writes as digits.
_DIGITS = {
  'none': '0',
  'zero': '0',
  'one': '1',
  'two': '2',
  'three': '3',
  'four': '4',
  'five': '5',
  'six': '6',
  'seven': '7',
  'eight': '8',
  'nine': '9',
  'ten': '10',
}
_ARTICLES = ('a', 'an', 'the')
PERCEPTION = (
  'existence',
  'count',
  'position',
  'color',
  'posters',
  'celebrity',
  'scene',
  'landmark',
  'artwork',
  'OCR',
)
COGNITION = (
  'commonsense_reasoning',
  'numerical_calculation',
  'text_translation',
  'code_reasoning',
)


# Letters of options


def letter(text: str, options: Sequence[str]) -> str | None:
  """The letter of the option that a text names; None for none or several.

  It is the letter of one option as a word of its own, in brackets or before a
  mark, where an A among more than three words counts as an article; or else
  that of the one option whose text is in it, in any case. These are the rules
  of MMBench (arXiv 2307.06281) before it asks a model.
  """
  words = text.split()
  known = LETTERS[: len(options)]
  matches = (re.fullmatch(r'[(:]?([A-I])[).,:]*', word) for word in words)
  found = {match[1] for match in matches if match and match[1] in known}
  if found == {'A'} and 'A' in words and len(words) > 3:
    found = set()
  if not found:
    lower = text.lower()
    found = {
      one
      for one, option in zip(known, options, strict=True)
      if option.strip() and option.strip().lower() in lower
    }
  return found.pop() if len(found) == 1 else None


def option(
  right: str, options: Sequence[str], metric: str = 'exact_match'
) -> Judge:
  """A judge by `letter`."""
  return lambda text: {metric: float(letter(text, options) == right)}


def first_letter(right: str) -> Judge:
  """LLaVA's rule for ScienceQA: the letter alone, or before a full stop."""

  def judge(text: str) -> Values:
    stated = text[:1] if re.match(r'[A-Z]\.', text) else text
    return {'exact_match': float(stated == right)}

  return judge


def leading_letter(right: str) -> Judge:
  """MMStar's rule (arXiv 2403.20330): the letter begins the text.

  `(`, `option ` or `the answer is ` may stand before it; case does not count.
  """
  begin = re.compile(r'(?:\(|option |the answer is )?(.)', re.S)

  def judge(text: str) -> Values:
    flat = text.strip().lower().replace('\n', ' ')
    wanted = right.strip().lower()
    match = begin.match(flat)
    found = {flat[:1], match[1] if match else ''}
    return {'exact_match': float(wanted in found)}

  return judge


# Yes or no


def yes_or_no(text: str) -> str:
  """MME's rule (arXiv 2306.13394): what the first four characters say.

  Returns:
    'yes', 'no' or 'other'.
  """
  flat = text.lower().strip().replace('.', '')
  if flat in ('y', 'n'):
    return {'y': 'yes', 'n': 'no'}[flat]
  for word in ('yes', 'no'):
    if word in flat[:4]:
      return word
  return 'other'


def mme(right: str) -> Judge:
  """Whether a question of MME is answered right."""
  wanted = yes_or_no(right)
  return lambda text: {'acc': float(yes_or_no(text) == wanted)}


def hallusion(right: str) -> Judge:
  """HallusionBench's aAcc by rule; `right` is '1' for yes and '0' for no."""
  wanted = {'1': 'yes', '0': 'no'}.get(right)
  return lambda text: {'aAcc_rule': float(yes_or_no(text) == wanted)}


def pope(right: str) -> Judge:
  """The word yes or no alone, in any case (POPE, arXiv 2305.10355).

  `said_yes` and `said_no` are what was said, `is_yes` what is right.
  """
  wanted = right.strip().lower()

  def judge(text: str) -> Values:
    said = text.strip().lower()
    return {
      'acc': float(said == wanted),
      'said_yes': float(said == 'yes'),
      'said_no': float(said == 'no'),
      'is_yes': float(wanted == 'yes'),
    }

  return judge


# Short answers


def vqa_words(text: str) -> str:
  """A short answer as the evaluation of VQA compares it.

  Lower case; digits for the words up to ten; without articles and punctuation,
  which is a space unless a digit stands on both sides of it. Contractions stay
  as they are.
  """
  flat = text.replace('\n', ' ').replace('\t', ' ').strip().lower()
  flat = re.sub(r'(?<=\d),(?=\d)', '', flat)
  flat = re.sub(r"[^\w\s.:']|(?<!\d)[.:](?!\d)", ' ', flat)
  words = (_DIGITS.get(word, word) for word in flat.split())
  return ' '.join(word for word in words if word not in _ARTICLES)


def vqa(answers: Sequence[str]) -> Judge:
  """The soft accuracy of VQA: the mean over people of min(others / 3, 1).

  `others` are the other people who gave the same answer.
  """
  given = [vqa_words(answer) for answer in answers]

  def judge(text: str) -> Values:
    said = vqa_words(text)
    count = given.count(said)
    shares = [min((count - (one == said)) / 3, 1.0) for one in given]
    return {'exact_match': sum(shares) / len(shares)}

  return judge


def mathvista(
  answer: str, kind: str, precision: float, choices: Sequence[str] | None
) -> Judge:
  """MathVista's comparison (arXiv 2310.02255), with an extraction by rule.

  Of a choice it is the option that a letter names, or else the most similar
  one; of a number the last one of the text, rounded; of a list the last pair of
  square brackets.

  Args:
    answer: the right option, number or list.
    kind: 'text', 'integer', 'float' or 'list'.
    precision: decimal places of a float.
    choices: options; None for a free answer.
  """

  def extracted(text: str) -> str | None:
    if choices:
      named = re.search(r'\(([A-Za-z])\)', text)
      stated = named[1].upper() if named else text.strip()
      known = LETTERS[: len(choices)]
      if len(stated) == 1 and stated in known:
        return choices[known.index(stated)]
      return min(choices, key=lambda one: edits(text.strip(), one))
    if kind == 'list':
      lists = re.findall(r'\[[^\[\]]*\]', text)
      return lists[-1] if lists else None
    numbers = _NUMBER.findall(text)
    if not numbers:
      return None
    number = float(numbers[-1].replace(',', ''))
    if math.isinf(number):  # hundreds of digits
      return None
    if kind == 'integer':
      return str(int(number))
    return str(round(number, int(precision)))

  return lambda text: {'acc_rule': float(extracted(text) == answer.strip())}


def edits(a: str, b: str) -> int:
  """Levenshtein's distance: letters to insert, remove or replace."""
  row = list(range(len(b) + 1))
  for i, x in enumerate(a, 1):
    before, row[0] = row[0], i
    for j, y in enumerate(b, 1):
      before, row[j] = (
        row[j],
        min(row[j] + 1, row[j - 1] + 1, before + (x != y)),
      )
  return row[-1]


def open_answer(answers: Sequence[str]) -> Judge:
  """An open question of MMMU (arXiv 2311.16502), by a simple rule.

  A number must be the last one of the text, to two decimal places; other words
  must be in the text, in any case.
  """

  def is_right(text: str, answer: str) -> bool:
    wanted = answer.strip().lower()
    numbers = _NUMBER.findall(text)
    if _NUMBER.fullmatch(wanted):
      last = numbers[-1].replace(',', '') if numbers else 'nan'
      return round(float(last), 2) == round(float(wanted.replace(',', '')), 2)
    return wanted in text.lower()

  return lambda text: {
    'acc_rule': float(any(is_right(text, answer) for answer in answers))
  }


# Scores of all items together


def _by(keys: Sequence[str], column: Sequence[float | None]) -> list[float]:
  """1 for each key all of whose items are right, else 0."""
  right: dict[str, float] = {}
  for key, value in zip(keys, column, strict=True):
    right[key] = min(right.get(key, 1.0), float(value == 1))
  return list(right.values())


def _mean(values: Sequence[float]) -> float:
  return sum(values) / len(values) if values else 0.0


def mme_score(items: Sequence[Prompt], columns: Columns) -> Values:
  """MME's score: for each category percent of questions, and of image pairs.

  `perception` is the sum over up to ten categories, at most 2,000, `cognition`
  that of four, at most 800; `score` is their share of 2,800, as in LibMoE.
  """
  sums = {}
  for category in (*PERCEPTION, *COGNITION):
    places = [i for i, item in enumerate(items) if item.group == category]
    column = [columns['acc'][i] for i in places]
    pairs = _by([items[i].unit for i in places], column)
    right = [float(x == 1) for x in column]
    sums[category] = 100 * (_mean(right) + _mean(pairs))
  perception = sum(sums[name] for name in PERCEPTION)
  cognition = sum(sums[name] for name in COGNITION)
  return {
    'perception': perception,
    'cognition': cognition,
    'score': (perception + cognition) / 2800,
  }


def pope_scores(items: Sequence[Prompt], columns: Columns) -> Values:
  """Precision, recall and F1 of yes, and the share of yes among answers."""
  del items
  yes = [
    (bool(said), bool(said_no), bool(is_yes))
    for said, said_no, is_yes in zip(
      columns['said_yes'], columns['said_no'], columns['is_yes'], strict=True
    )
  ]
  hits = sum(said and is_yes for said, _, is_yes in yes)
  alarms = sum(said and not is_yes for said, _, is_yes in yes)
  misses = sum(no and is_yes for _, no, is_yes in yes)
  precision = hits / (hits + alarms) if hits + alarms else 0.0
  recall = hits / (hits + misses) if hits + misses else 0.0
  both = precision + recall
  return {
    'precision': precision,
    'recall': recall,
    'f1': 2 * precision * recall / both if both else 0.0,
    'yes_ratio': _mean([float(said) for said, _, _ in yes]),
  }


def hallusion_scores(items: Sequence[Prompt], columns: Columns) -> Values:
  """QAcc and fAcc: all questions of one kind, and all of one figure, right."""
  question, figure = zip(*(item.unit.split('|') for item in items), strict=True)
  column = columns['aAcc_rule']
  return {
    'qAcc_rule': _mean(_by(question, column)),
    'fAcc_rule': _mean(_by(figure, column)),
  }


def circular(items: Sequence[Prompt], columns: Columns) -> Values:
  """MMBench's accuracy: all shifts of a question's options must be right."""
  units = [item.unit for item in items]
  return {'circular_rule': _mean(_by(units, columns['acc_rule']))}


def words(answers: Sequence[str]) -> Judge:
  """Exact match without case and punctuation."""
  return judges.exact_match(answers, judges.plain)
