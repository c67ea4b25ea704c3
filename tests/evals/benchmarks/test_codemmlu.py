"""CodeMMLU: prompts, extraction, shifts and scores by hand."""

import dataclasses

import pytest
from helpers.benchmark_cases import Case
from helpers.benchmark_cases import check as check_items
from helpers.generated_cases import GeneratedCase, asked, check, write_rows

from moejax.core.errors import InputError
from moejax.evals import rows as rows_lib
from moejax.evals.benchmark import Choice
from moejax.evals.benchmarks import SUITES, codemmlu
from moejax.evals.benchmarks.codemmlu import official, strict

SUITE = SUITES['codemmlu']


def row(config, question, choices, answer, **columns):
  return {
    'task_id': f'{config[:2]}{len(question)}',
    'question': question,
    'choices': choices,
    'answer': answer,
    'config': config,
    **columns,
  }


GENERAL = row('others', 'What is 1 {x}?', ['one', '{two}', 'three'], 'B')
COMPLETION = row('code_completion', 'def f():', ['  a', '  b'], 'A')
FILL_IN = row(
  'fill_in_the_middle',
  'x = ___',
  ['1', '2'],
  'B',
  problem_description='Set x.',
)
REPAIR = row('code_repair', '1 x = 2', ['Remove 1.', 'Add 2.'], 'A')
EXECUTION = row(
  'execution_prediction', 'print(1)', [str(i) for i in range(7)], 'G'
)
ROWS = [GENERAL, COMPLETION, FILL_IN, REPAIR, EXECUTION]
OPTIONS = '(A) one\n(B) {two}\n(C) three\n'
SEVEN = ''.join(f'({"ABCDEFG"[i]}) {i}\n' for i in range(7))
WHICH = (
  'Question: Which solution below is the most likely completion the following '
  '\ncode snippet to achieve the desired goal?\n'
)
ABOUT = 'The following are multiple choice questions (with answers) about '
ABOUT_TWO = 'The following are multiple-choice questions (with answers) about '
MISSING = 'Question: The provided solution is missing a part, Which option '
MISSING += 'below is the most likely to complete the solution and achieve the '
MISSING += 'desired goal?\n\n(A) 1\n(B) 2\n\n'
REPAIRED = (
  'Question: The implementation below is producing incorrect results. \n'
  'Which solution below correctly identifies the bug and repairs it to achieve '
  'the desired goal?\n1 x = 2\n\n(A) Remove 1.\n(B) Add 2.\n\n'
)
BEHAVIOR = (
  'Question: Given a code snippet below, which behavior most likely to occur '
  f'when execute it?\nprint(1)\n\n{SEVEN}\n'
)
TEXTS = [
  f'{ABOUT}software development.\n\nQuestion: What is 1 {{x}}?\n{OPTIONS}'
  '\nAnswer: ',
  f'{ABOUT}\nprogramming problem.\n\n{WHICH}def f():\n\n(A)   a\n(B)   b\n\n'
  'Answer: ',
  f'{ABOUT_TWO}a programming problem with incomplete solution.\n\n'
  'Problem statement: Set x.\n\nIncomplete Solution:\nx = ___\n\n'
  f'{MISSING}Answer: ',
  f'{ABOUT_TWO}debugging a programming problem.\n\n{REPAIRED}Answer: ',
  f'{ABOUT}programming problem.\n\n{BEHAVIOR}Answer: ',
]
STEPS = "Answer: Let's think step by step. "
MISSING_CUT = MISSING.replace('likely to complete', 'likely to\ncomplete')
FENCED = f'{WHICH}```python\ndef f():\n```\n(A)   a\n(B)   b\n\n'
COT_TEXTS = [
  f'{ABOUT}software devopment.\n \nQuestion: What is 1 {{x}}?\n{OPTIONS}\n'
  f'{STEPS}',
  f'{ABOUT}\nprogramming problem.\n\n{FENCED}{STEPS}',
  f'{ABOUT_TWO}a programming problem with incomplete solution.\n\n'
  'Problem statement: Set x.\n\nIncomplete Solution:\nx = ___\n\n'
  f'{MISSING_CUT}{STEPS}',
  f'{ABOUT_TWO}debugging a programming problem.\n\n{REPAIRED}{STEPS}',
  f'{ABOUT}programming problem.\n\n{BEHAVIOR}{STEPS}',
]
OUTPUTS = [
  # Both are right.
  'The answer is (B).\n\nQuestion: The answer is (A).',
  # A capital of a word is an answer only officially.
  'Any of them',
  # Lower case equals no answer.
  'The code is correct',
  # The last letter is meant, and the first is found.
  'The answer is (B). No, the answer is (A).',
  # The official extraction knows no G: it finds none, or another one.
  '(G)',
]
MEANS = {
  'strict': pytest.approx(3 / 5),
  'official': pytest.approx(2 / 5),
  'chose_A': pytest.approx(1 / 5),
  'chose_B': pytest.approx(1 / 5),
  **{f'chose_{letter}': 0.0 for letter in 'CDEF'},
  'chose_G': pytest.approx(1 / 5),
}
REST = {f'chose_{letter}': 0.0 for letter in 'BCDEFG'}
TWO = [
  row('others', 'What is 1?', ['one', 'two'], 'A'),
  row('others', 'What is 2?', ['one', 'two'], 'B'),
]
LINES = '(A) one\n(B) two\n\n'
SHIFTED = '(A) two\n(B) one\n\n'
HEADER = f'{ABOUT}software development.\n\n'
MISSPELT = f'{ABOUT}software devopment.\n\n'
ASKED = [f'Question: What is {i}?\n' for i in (1, 2)]
COT_TWO = [{**TWO[0], 'rationale': 'One is 1.'}, TWO[1]]
FEW_MEANS = {'strict': 0.5, 'official': 0.5, 'chose_A': 0.5, **REST}

CASES = [
  GeneratedCase('codemmlu', 'zero_shot', ROWS, TEXTS, OUTPUTS, MEANS),
  GeneratedCase('codemmlu', 'cot_zero_shot', ROWS, COT_TEXTS, OUTPUTS, MEANS),
  GeneratedCase(
    'codemmlu',
    'few_shot',
    TWO,
    [
      f'{HEADER}{ASKED[1]}{LINES}Answer: The answer is (B).\n\n'
      f'{ASKED[0]}{LINES}Answer: ',
      f'{HEADER}{ASKED[0]}{LINES}Answer: The answer is (A).\n\n'
      f'{ASKED[1]}{LINES}Answer: ',
    ],
    ['A', 'none'],
    FEW_MEANS,
  ),
  GeneratedCase(
    'codemmlu',
    'cot_few_shot',
    COT_TWO,
    [
      f'{MISSPELT}{ASKED[1]}{LINES}{STEPS}The answer is (B).\n\n'
      f'{ASKED[0]}{LINES}{STEPS}',
      f'{MISSPELT}{ASKED[0]}{LINES}{STEPS}One is 1.\nThe answer is (A).\n\n'
      f'{ASKED[1]}{LINES}{STEPS}',
    ],
    ['It is 1. The answer is (A).', 'none'],
    FEW_MEANS,
  ),
  # A model that always says A is right in one of two shifts.
  GeneratedCase(
    'codemmlu',
    'permuted',
    TWO[:1],
    [
      f'{HEADER}{ASKED[0]}{LINES}Answer: ',
      f'{HEADER}{ASKED[0]}{SHIFTED}Answer: ',
    ],
    ['A', 'A'],
    {'strict': 0.5, 'official': 0.5, 'chose_A': 1.0, **REST},
  ),
]


def letters(context, answer, group):
  names = 'ABCDEFG'[: context.count('\n(')]
  return Choice(
    (f'{context}Answer:',) * len(names),
    tuple(f' {name}' for name in names),
    answer,
    tuple(names),
    group,
  )


# This model prefers A whatever the question is.
LETTERS = {' A': (-1, 1), ' B': (-2, 1), ' C': (-3, 1)}
LETTER_CASES = [
  Case(
    'codemmlu',
    'letters',
    [GENERAL, *TWO],
    [
      letters(f'{HEADER}Question: What is 1 {{x}}?\n{OPTIONS}\n', 1, 'others'),
      letters(f'{HEADER}{ASKED[0]}{LINES}', 0, 'others'),
      letters(f'{HEADER}{ASKED[1]}{LINES}', 1, 'others'),
    ],
    LETTERS,
    1 / 3,
  ),
  Case(
    'codemmlu',
    'letters_permuted',
    TWO[:1],
    [
      letters(f'{HEADER}{ASKED[0]}{LINES}', 0, 'right option at A'),
      letters(f'{HEADER}{ASKED[0]}{SHIFTED}', 1, 'right option at B'),
    ],
    LETTERS,
    0.5,
  ),
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_prompts_and_score_are_those_worked_by_hand(case, tmp_path):
  check(tmp_path, case)


@pytest.mark.parametrize('case', LETTER_CASES, ids=str)
def test_letters_are_scored_by_likelihood(case):
  check_items(case)


@pytest.mark.parametrize(
  ('text', 'official_letter', 'strict_letter'),
  [
    ('The answer is (B).', 'B', 'B'),
    ('The answer is B', 'B', 'B'),
    ('the answer is: C', 'C', 'C'),
    ('Answer: **D**', 'A', 'D'),
    ('(C) is correct.', 'C', 'C'),
    ('Option B is the right one', 'B', 'B'),
    # The three faults: words, any case, and any capital.
    ('the answer is because of x', 'b', None),
    ('the answer is a list', 'a', None),
    ('the code is correct', 'e', None),
    ('Binary search', 'B', None),
    ('A list', 'A', None),
    # The strict one takes the last letter, and knows F and G.
    ('The answer is A. Wait, the answer is (C).', 'A', 'C'),
    ('The answer is (G).', None, 'G'),
    ('F', None, 'F'),
    ('(B)', 'B', 'B'),
    ('B. because', 'B', 'B'),
    ('no letter', None, None),
    ('', None, None),
  ],
)
def test_a_letter_is_extracted_as_officially_and_strictly(
  text, official_letter, strict_letter
):
  assert official(text) == official_letter
  assert strict(text) == strict_letter


def test_the_strict_letter_is_one_of_the_options():
  assert strict('The answer is (D).', 'ABC') is None
  assert strict('The answer is (C).', 'ABC') == 'C'


@pytest.mark.parametrize('count', range(2, 8))
def test_shifts_put_the_right_option_at_each_position_once(count):
  choices = [f'c{i}' for i in range(count)]
  for answer in range(count):
    question = row('others', 'x', choices, 'ABCDEFG'[answer])
    arranged = [codemmlu.shifted(each) for each in codemmlu.shifts([question])]
    assert sorted(place for _, place in arranged) == list(range(count))
    for texts, place in arranged:
      assert texts[place] == choices[answer]
      assert sorted(texts) == choices


def test_groups_of_shifts_are_positions(tmp_path):
  questions = asked(tmp_path, CASES[-1])
  assert [item.group for item in questions.items] == [
    'right option at A',
    'right option at B',
  ]


@pytest.mark.parametrize('folder', ['execution_prediction', 'defect_detection'])
def test_the_renamed_subset_is_read_by_both_names(tmp_path, folder):
  write_rows(tmp_path, 'CodeMMLU', 'test', [{**EXECUTION, 'config': folder}])
  dataset = dataclasses.replace(
    codemmlu.ROWS, configs=('execution_prediction',)
  )
  ((_, read),) = rows_lib.load('zero_shot', dataset, 'test', str(tmp_path))
  assert codemmlu.subset(read) == 'execution_prediction'
  assert codemmlu.subset({'config': folder}) == 'execution_prediction'


def test_there_are_nine_subsets():
  assert len(codemmlu.ROWS.configs) == 9


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'choices': ['x']}, '1 options, not 2 to 7'),
    ({'choices': ['x'] * 8}, '8 options'),
    ({'choices': ['x', ' ']}, 'option B'),
    ({'answer': 'D'}, "'answer' is 'D'"),
    ({'answer': 'b'}, "'answer' is 'b'"),
    ({'config': 'sums'}, 'no subset of CodeMMLU'),
    ({'config': 'fill_in_the_middle'}, 'problem_description'),
  ],
)
@pytest.mark.parametrize('name', ['zero_shot', 'letters'])
def test_a_wrong_row_is_one_line(changes, message, name):
  with pytest.raises(InputError, match=message) as error:
    SUITE[name].item({**GENERAL, **changes})
  assert '\n' not in str(error.value)
