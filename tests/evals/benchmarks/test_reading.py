"""RACE in its three forms, and BoolQ: items and scores by hand."""

import pytest
from helpers.benchmark_cases import Case, check

from moejax.core.errors import InputError
from moejax.evals.benchmark import Choice
from moejax.evals.benchmarks import BENCHMARKS, SUITES


def same(context, options, answer, **fields):
  """An item whose options all follow the same context."""
  texts = tuple(option.strip() for option in options)
  return Choice((context,) * len(options), options, answer, texts, **fields)


ARTICLE = 'Tom has a red boat.\nHe sails on Sundays.'
COLOURS = ['red', 'blue', 'green', 'white']
DAYS = ['Monday', 'Sunday', 'Friday', 'Tuesday']
QUESTIONS = [
  {
    'example_id': 'high1.txt',
    'article': ARTICLE,
    'question': "What colour is Tom's boat?",
    'options': COLOURS,
    'answer': 'A',
  },
  {
    'example_id': 'high1.txt',
    'article': ARTICLE,
    'question': 'When does he sail?',
    'options': DAYS,
    'answer': 'B',
  },
  {
    'example_id': 'high2.txt',
    'article': 'Snow fell.',
    'question': 'What fell?',
    'options': ['Rain', 'Hail', 'Leaves', 'Snow'],
    'answer': 'D',
  },
]
COLOUR_OPTIONS = (' red', ' blue', ' green', ' white')
DAY_OPTIONS = (' Monday', ' Sunday', ' Friday', ' Tuesday')
FALL_OPTIONS = (' Rain', ' Hail', ' Leaves', ' Snow')
COLOUR = f"Article: {ARTICLE}\nQuestion: What colour is Tom's boat?\nAnswer:"
DAY = f'Article: {ARTICLE}\nQuestion: When does he sail?\nAnswer:'
FALL = 'Article: Snow fell.\nQuestion: What fell?\nAnswer:'
# The sums are right for the colour alone, the means per token for the day and
# the snow too.
ENGINE = {
  ' red': (-1.0, 1),
  ' blue': (-2.0, 1),
  ' green': (-2.0, 1),
  ' white': (-2.0, 1),
  ' Monday': (-2.0, 1),
  ' Sunday': (-3.0, 2),
  ' Friday': (-4.0, 1),
  ' Tuesday': (-4.0, 1),
  ' Rain': (-2.0, 1),
  ' Hail': (-3.0, 1),
  ' Leaves': (-4.0, 2),
  ' Snow': (-3.0, 2),
}
PER_QUESTION = [
  same(COLOUR, COLOUR_OPTIONS, 0),
  same(DAY, DAY_OPTIONS, 1),
  same(FALL, FALL_OPTIONS, 3),
]
AFTER_OTHERS = [
  same(
    f'Article:\n{ARTICLE}\n\nQ: When does he sail?\n\nA: Sunday\n\n'
    "Q: What colour is Tom's boat?\n\nA:",
    COLOUR_OPTIONS,
    0,
  ),
  same(
    f"Article:\n{ARTICLE}\n\nQ: What colour is Tom's boat?\n\nA: red\n\n"
    'Q: When does he sail?\n\nA:',
    DAY_OPTIONS,
    1,
  ),
  same('Article:\nSnow fell.\n\nQ: What fell?\n\nA:', FALL_OPTIONS, 3),
]

BY_ARTICLE = [
  {
    'article': ARTICLE,
    'problems': str([
      {
        'question': "What colour is Tom's boat?",
        'answer': 'A',
        'options': COLOURS,
      },
      {'question': 'Tom sails on  _  .', 'answer': 'B', 'options': DAYS},
      {'question': 'Who sails?', 'answer': 'C', 'options': list('WXYZ')},
    ]),
  }
]
TWO_SCHOOLS = [
  QUESTIONS[0] | {'config': 'high'},
  QUESTIONS[1] | {'config': 'high'},
  QUESTIONS[2] | {'config': 'middle'},
]

BOOLQ = [
  {
    'question': 'is the sea salty',
    'passage': 'Sea water holds much salt.',
    'idx': 0,
    'label': 1,
  },
  {
    'question': 'do fish fly',
    'passage': 'Fish swim.',
    'idx': 1,
    'label': 0,
  },
]

CASES = [
  Case(
    'lm_eval',
    'race',
    BY_ARTICLE,
    [
      same(
        f"Article: {ARTICLE}\n\nQuestion: What colour is Tom's boat?\n"
        'Answer: red\nTom sails on Sunday\nWho sails?',
        (' W', ' X', ' Y', ' Z'),
        2,
      )
    ],
    {' W': (-2, 1), ' X': (-2, 1), ' Y': (-1, 1), ' Z': (-2, 1)},
    1.0,
  ),
  Case('lm_eval', 'race_high', QUESTIONS, PER_QUESTION, ENGINE, 1 / 3),
  Case('lm_eval', 'race_middle', QUESTIONS, PER_QUESTION, ENGINE, 1 / 3),
  Case('deepseekmoe', 'race_high', QUESTIONS, AFTER_OTHERS, ENGINE, 1.0),
  Case('deepseekmoe', 'race_middle', QUESTIONS, AFTER_OTHERS, ENGINE, 1.0),
  Case(
    'libmoe',
    'race',
    TWO_SCHOOLS,
    [
      same(COLOUR, COLOUR_OPTIONS, 0, group='high'),
      same(DAY, DAY_OPTIONS, 1, group='high'),
      same(FALL, FALL_OPTIONS, 3, group='middle'),
    ],
    ENGINE | {' Sunday': (-4.0, 2)},
    0.75,  # a tie in one of two in high school, and all of middle school
  ),
  Case(
    'lm_eval',
    'boolq',
    BOOLQ,
    [
      same(
        'Sea water holds much salt.\nQuestion: is the sea salty?\nAnswer:',
        (' no', ' yes'),
        1,
      ),
      same('Fish swim.\nQuestion: do fish fly?\nAnswer:', (' no', ' yes'), 0),
    ],
    {' no': (-2.0, 1), ' yes': (-1.0, 1)},
    0.5,
  ),
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_items_and_score(case):
  check(case)


def test_at_most_five_others_are_shown():
  rows = [
    QUESTIONS[0] | {'question': f'Question {number}?'} for number in range(8)
  ]
  benchmark = SUITES['deepseekmoe']['race_high']
  (first, *_, last) = [
    benchmark.item(row).contexts[0] for row in benchmark.arrange(rows)
  ]
  assert [number for number in range(8) if f'Question {number}?' in first] == [
    *range(6)
  ]
  assert [number for number in range(8) if f'Question {number}?' in last] == [
    *range(5),
    7,
  ]


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ({'article': 'a', 'problems': '[oops'}, 'no Python list'),
    ({'article': 'a', 'problems': '[]'}, "'problems' is empty"),
  ],
)
def test_a_bad_article_has_one_clear_line(row, message):
  with pytest.raises(InputError, match=message) as error:
    BENCHMARKS['race'].item(row)
  assert '\n' not in str(error.value)
