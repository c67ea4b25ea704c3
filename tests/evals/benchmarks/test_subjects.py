"""MMLU: items and scores by hand."""

import pytest
from helpers.benchmark_cases import Case, check

from moejax.core.errors import InputError
from moejax.evals.benchmark import Choice
from moejax.evals.benchmarks import BENCHMARKS


def row(question, choices, answer, subject='high_school_geography'):
  return {
    'question': question,
    'subject': subject,
    'choices': choices,
    'answer': answer,
  }


MMLU = [
  row(' Which is a river?', ['Rhine', 'Alps', 'Rome', 'Asia'], 0),
  row('Which is a sea?', ['Nile', 'Baltic', 'Oslo', 'Peru'], 1),
  row('What is 2 + 2?', ['1', '2', '3', '4'], 3, 'elementary_mathematics'),
]
DEV = row('Which is a city?', ['Elbe', 'Etna', 'Oslo', 'Asia'], 2)
LETTERS = (' A', ' B', ' C', ' D')
ABOUT = 'The following are multiple choice questions (with answers) about '
GEOGRAPHY = f'{ABOUT}high school geography.\n\n'
MATHEMATICS = f'{ABOUT}elementary mathematics.\n\n'
RIVER = 'Which is a river?\nA. Rhine\nB. Alps\nC. Rome\nD. Asia\nAnswer:'
SEA = 'Which is a sea?\nA. Nile\nB. Baltic\nC. Oslo\nD. Peru\nAnswer:'
SUM = 'What is 2 + 2?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:'
CITY = 'Which is a city?\nA. Elbe\nB. Etna\nC. Oslo\nD. Asia\nAnswer: C\n\n'


def item(context, answer, group='high_school_geography'):
  return Choice((context,) * 4, LETTERS, answer, ('A', 'B', 'C', 'D'), group)


def listed(context, texts, answer, group='high_school_geography'):
  return Choice((context,) * 4, texts, answer, texts, group)


# Always `A`, which is right once.
ENGINE = {' A': (-1, 1), ' B': (-2, 1), ' C': (-2, 1), ' D': (-2, 1)}

CASES = [
  Case(
    'lm_eval',
    'mmlu',
    MMLU,
    [
      item(GEOGRAPHY + RIVER, 0),
      item(GEOGRAPHY + SEA, 1),
      item(MATHEMATICS + SUM, 3, 'elementary_mathematics'),
    ],
    ENGINE,
    1 / 3,
  ),
  # Half of one subject and nothing of the other.
  Case(
    'deepseekmoe',
    'mmlu',
    MMLU,
    [
      item(GEOGRAPHY + RIVER, 0),
      item(GEOGRAPHY + SEA, 1),
      item(MATHEMATICS + SUM, 3, 'elementary_mathematics'),
    ],
    ENGINE,
    0.25,
  ),
  Case(
    'deepseekmoe',
    'mmlu',
    MMLU[:1],
    [item(GEOGRAPHY + CITY + RIVER, 0)],
    ENGINE,
    1.0,
    solved=[DEV],
  ),
  Case(
    'libmoe',
    'mmlu',
    MMLU[:1],
    [
      listed(
        "Question:  Which is a river?\nOptions: ['Rhine', 'Alps', 'Rome', "
        "'Asia']\nAnswer:",
        ('Rhine', 'Alps', 'Rome', 'Asia'),
        0,
      )
    ],
    {'Rhine': (-3, 2), 'Alps': (-2, 1), 'Rome': (-2, 1), 'Asia': (-2, 1)},
    1.0,
  ),
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_items_and_score(case):
  check(case)


@pytest.mark.parametrize('option', ['', ' ', None])
def test_an_option_without_text_is_named(option):
  row = {**MMLU[0], 'choices': ['Rhine', option, 'Rome', 'Asia']}
  with pytest.raises(InputError, match=f'option 1 is {option!r}: each option'):
    BENCHMARKS['mmlu'].item(row)
