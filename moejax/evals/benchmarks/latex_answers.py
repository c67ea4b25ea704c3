r"""Answers of MATH: where they stand in a solution, and when two are equal.

`normal` follows appendix D of Minerva (arXiv 2206.14858) with the corrections
of EleutherAI's harness: units are words, `\left` keeps its `ft`, a tuple keeps
its commas. Two answers are equal if their normal forms are, or if both are the
same number. No computer algebra is used, so x+1 and 1+x differ.
"""

import fractions
import re

REPLACED = (
  ('an ', ''),
  ('a ', ''),
  ('.$', '$'),
  ('\\$', ''),
  ('\\ ', ''),
  (' ', ''),
  ('mbox', 'text'),
  (',\\text{and}', ','),
  ('\\text{and}', ','),
  ('\\text{m}', '\\text{}'),
)
UNITS = (
  *('square', 'ways', 'integers', 'dollars', 'mph', 'inches', 'ft', 'hours'),
  *('km', 'units', 'sue', 'points', 'feet', 'minutes', 'digits', 'cents'),
  *('degrees', 'cm', 'gm', 'pounds', 'meters', 'meals', 'edges', 'students'),
  *('childrentickets', 'multiples'),
)
REMOVED = (
  *('\\ldots', '\\text{s}', '\\text{.}', '\\text{\ns}', '\\text{}^2'),
  *('\\text{}^3', '\\text{\n}', '\\text{}', '\\mathrm{th}', '^\\circ'),
  *('^{\\circ}', '\\;', ',\\!', '{,}', '"', '\\dots'),
)
FINAL = re.compile(
  r'Final Answer: The final answer is(.*?)\. I hope it is correct\.', re.S
)
MOST_DIGITS = 1000
FRACTION = re.compile(r'(-?)(?:\\[dt]?frac\{(-?\d+)\}\{(\d+)\}|(-?\d+)/(\d+))')


def boxed(text: str) -> str | None:
  r"""What the last \boxed{...} or \fbox{...} of a text holds.

  Example: '$x = \boxed{\frac{1}{2}}$' -> '\frac{1}{2}'. The brace may be
  missing: '\boxed 5$' -> '5'. None if nothing is boxed, or a brace is open.
  """
  starts = [*re.finditer(r'\\(?:boxed|fbox)\s*', text)]
  if not starts:
    return None
  rest = text[starts[-1].end() :]
  if not rest.startswith('{'):
    return re.split(r'[$\n]', rest)[0].strip() or None
  depth = 0
  for index, letter in enumerate(rest):
    depth += {'{': 1, '}': -1}.get(letter, 0)
    if depth == 0:
      return rest[1:index]
  return None


def final(text: str) -> str | None:
  """What Minerva's closing sentence names; its end may be missing."""
  match = FINAL.search(text + '. I hope it is correct.')
  return match and match[1].strip().split('\n')[0]


def without_units(text: str) -> str:
  r"""Removes units, which are no part of a command: not `ft` of `\left`."""
  return ''.join(
    piece if piece.startswith('\\') else re.sub('|'.join(UNITS), '', piece)
    for piece in re.split(r'(\\[a-zA-Z]+)', text)
  )


def normal(answer: str) -> str:
  r"""The normal form of an answer.

  Example: '$x = \frac12$ cm' -> '\frac{1}{2}'; '1,000' -> '1000'.
  """
  answer = answer.split('=')[-1]
  answer = re.sub(rf'(?<!\\)\b(?:{"|".join(UNITS)})\b', '', answer)
  for before, after in REPLACED:
    answer = answer.replace(before, after)
  answer = without_units(answer)
  for expression in REMOVED:
    answer = answer.replace(expression, '')
  # The mathematics of a sentence, and what a command only decorates.
  answer = re.sub(r'.*?\$(.*?)\$.*', r'$\1$', answer)
  for command in ('text', 'textbf', 'overline'):
    answer = re.sub(rf'\\{command}\{{(.*?)\}}', r'\1', answer)
  answer = re.sub(r'\\boxed\{(.*)\}', r'\1', answer)
  # \fracab is \frac{a}{b}; \sqrta is \sqrt{a}; \sqrt[3]a is \sqrt[3]{a}.
  answer = re.sub(r'frac([^{])(.)', r'frac{\1}{\2}', answer)
  answer = re.sub(r'sqrt(\[[^\]]*\])(\w)', r'sqrt\1{\2}', answer)
  answer = re.sub(r'sqrt(?!\[)([^{])', r'sqrt{\1}', answer)
  answer = answer.replace('$', '')
  if re.fullmatch(r'-?\d{1,3}(,\d{3})+', answer):
    answer = answer.replace(',', '')
  return answer


def value(answer: str) -> fractions.Fraction | None:
  r"""The number that a normal form is: 0.5, 1/2 and \frac{1}{2} are one.

  A text of more than MOST_DIGITS characters is none: Python reads no number of
  4,300 digits, which a model may well write.
  """
  if len(answer) > MOST_DIGITS:
    return None
  if re.fullmatch(r'-?(\d+\.?\d*|\.\d+)', answer):
    return fractions.Fraction(answer.removesuffix('.'))
  match = FRACTION.fullmatch(answer)
  if not match:
    return None
  sign, *numbers = match.groups()
  above, below = [int(number) for number in numbers if number is not None]
  return (
    fractions.Fraction(above, below) * (-1 if sign else 1) if below else None
  )


def equal(one: str, other: str) -> bool:
  """Whether two answers are the same, as written in solutions."""
  one, other = normal(one), normal(other)
  return one == other or (value(one) is not None and value(one) == value(other))
