"""BIG-Bench Hard: prompts and scores by hand."""

import pytest
from helpers.generated_cases import GeneratedCase, check

from moejax.core.errors import InputError
from moejax.evals.benchmarks import BENCHMARKS, reasoning

STEPS = "\nA: Let's think step by step.\n"


def row(task, text, target, **columns):
  return {'input': text, 'target': target, 'config': task, **columns}


# Written with a reasoning, and so shown before the others.
WITH = [
  row('word_sorting', f'Sort: c{i} b{i}', f'b{i} c{i}', rationale=f'By {i}.')
  for i in range(3)
]
ROWS = [
  row('word_sorting', 'Sort: z y', 'y z', rationale=''),
  *WITH,
  row('navigate', 'Go up.', 'No'),
  *[row('navigate', f'Go {i}.', 'Yes') for i in range(3)],
]
SORTING = 'Sort a list of words.\n\n'
NAVIGATE = (
  'Given a series of navigation instructions, determine whether one would end '
  'up back at the starting point.\n\n'
)


def sort_shown(i):
  return f'Q: Sort: c{i} b{i}{STEPS}By {i}. So the answer is b{i} c{i}.\n\n'


def go_shown(where, answer):
  return f'Q: Go {where}.{STEPS}So the answer is {answer}.\n\n'


PLAIN = f'Q: Sort: z y{STEPS}So the answer is y z.\n\n'
UP, YES = go_shown('up', 'No'), [go_shown(i, 'Yes') for i in range(3)]
TEXTS = [
  f'{SORTING}{sort_shown(0)}{sort_shown(1)}{sort_shown(2)}Q: Sort: z y{STEPS}',
  # A row is not shown before itself.
  f'{SORTING}{sort_shown(1)}{sort_shown(2)}{PLAIN}Q: Sort: c0 b0{STEPS}',
  f'{SORTING}{sort_shown(0)}{sort_shown(2)}{PLAIN}Q: Sort: c1 b1{STEPS}',
  f'{SORTING}{sort_shown(0)}{sort_shown(1)}{PLAIN}Q: Sort: c2 b2{STEPS}',
  f'{NAVIGATE}{YES[0]}{YES[1]}{YES[2]}Q: Go up.{STEPS}',
  f'{NAVIGATE}{UP}{YES[1]}{YES[2]}Q: Go 0.{STEPS}',
  f'{NAVIGATE}{UP}{YES[0]}{YES[2]}Q: Go 1.{STEPS}',
  f'{NAVIGATE}{UP}{YES[0]}{YES[1]}Q: Go 2.{STEPS}',
]
OUTPUTS = [
  'y before z. So the answer is y z.\n\nQ: x',
  'So the answer is b0 c0.',
  # The last character is taken for a full stop, as in the harness.
  'So the answer is b1 c1',
  'b2 c2',
  'So the answer is Yes.',
  'So the answer is Yes.',
  'Quickly: so the answer is Yes.',
  'No.\n\nSo the answer is Yes.',
]

CASES = [
  # The harness stops at the first Q, and so never sees the seventh answer.
  GeneratedCase(
    'lm_eval', 'bbh_cot_fewshot', ROWS, TEXTS, OUTPUTS, {'exact_match': 3 / 8}
  ),
  GeneratedCase(
    'deepseekmoe', 'bbh', ROWS, TEXTS, OUTPUTS, {'exact_match': 4 / 8}
  ),
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_prompts_and_score_are_those_worked_by_hand(case, tmp_path):
  check(tmp_path, case)


def test_there_are_27_tasks():
  assert len(reasoning.TASKS) == 27


def test_an_unknown_task_is_one_line():
  with pytest.raises(InputError, match="'config' is 'sums'"):
    BENCHMARKS['bbh_cot_fewshot'].item(row('sums', 'x', 'y'))
