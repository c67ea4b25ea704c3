"""HumanEval and MBPP: prompts, programs and pass@1 by hand."""

import pytest
from helpers.generated_cases import GeneratedCase, Writer, asked, check

from moejax.core.errors import InputError
from moejax.evals import suite
from moejax.evals.benchmarks import programs

START = 'def double(x):\n  """Twice x."""\n'
TEST = 'def check(f):\n  assert f(3) == 6\n'
HUMANEVAL = [
  {
    'task_id': 'Made/0',
    'prompt': START,
    'canonical_solution': '  return 2 * x\n',
    'test': TEST,
    'entry_point': 'double',
  },
  {
    'task_id': 'Made/1',
    'prompt': START.replace('double', 'twice'),
    'canonical_solution': '  return 2 * x\n',
    'test': TEST,
    'entry_point': 'twice',
  },
]
TWICE = START.replace('double', 'twice')
HUMANEVAL_OUTPUTS = [
  '  return x + x\nprint(double(1))',
  '  return x\n\ndef y():',
]
HUMANEVAL_PROGRAMS = {
  f'{START}  return x + x\n{TEST}\ncheck(double)\n': True,
  f'{TWICE}  return x\n\n{TEST}\ncheck(twice)\n': False,
}


def mbpp(task_id, name, code, setup=''):
  return {
    'task_id': task_id,
    'text': f'Write {name}.',
    'code': code,
    'test_list': [f'assert {name}({i}) == {2 * i}' for i in range(3)],
    'test_setup_code': setup,
    'challenge_test_list': [],
  }


def question(name):
  tests = ''.join(f'assert {name}({i}) == {2 * i}\n' for i in range(3))
  return (
    'You are an expert Python programmer, and here is your task: '
    f'Write {name}. Your code should pass these tests:\n\n{tests}[BEGIN]\n'
  )


MBPP = [
  mbpp(11, 'double', 'x'),
  # The values that it makes are of the solution's own.
  mbpp(12, 'add', 'x', 'root = add(1)'),
]
MBPP_SOLVED = [
  mbpp(i, f'f{i}', f'def f{i}(x):\r\n  return {i}') for i in (4, 3, 1, 2)
]
MBPP_SHOWN = [
  f'{question(f"f{i}")}def f{i}(x):\n  return {i}\n[DONE]' for i in (2, 3, 4)
]
MBPP_OUTPUTS = [
  'def double(x):\n  return x\n[DONE]\nmore',
  'add = lambda x: 2 * x',
]
DOUBLE = ''.join(f'assert double({i}) == {2 * i}\n' for i in range(3))
ADD = ''.join(f'assert add({i}) == {2 * i}\n' for i in range(3))
MBPP_PROGRAMS = {
  f'def double(x):\n  return x\n\n\n{DOUBLE}': False,
  f'add = lambda x: 2 * x\nroot = add(1)\n{ADD}': True,
}

CASES = [
  GeneratedCase(
    'lm_eval',
    'humaneval',
    HUMANEVAL,
    [START, TWICE],
    HUMANEVAL_OUTPUTS,
    {'pass@1': 0.5},
    programs=HUMANEVAL_PROGRAMS,
  ),
  GeneratedCase(
    'deepseekmoe',
    'humaneval',
    HUMANEVAL,
    [START, TWICE],
    HUMANEVAL_OUTPUTS,
    {'pass@1': 0.5},
    programs=HUMANEVAL_PROGRAMS,
  ),
  GeneratedCase(
    'lm_eval',
    'mbpp',
    MBPP,
    ['\n\n'.join([*MBPP_SHOWN, question(name)]) for name in ('double', 'add')],
    MBPP_OUTPUTS,
    {'pass@1': 0.5},
    MBPP_SOLVED,
    MBPP_PROGRAMS,
  ),
  GeneratedCase(
    'deepseekmoe',
    'mbpp',
    MBPP,
    ['\n'.join([*MBPP_SHOWN, question(name)]) for name in ('double', 'add')],
    MBPP_OUTPUTS,
    {'pass@1': 0.5},
    MBPP_SOLVED,
    MBPP_PROGRAMS,
  ),
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_prompts_and_score_are_those_worked_by_hand(case, tmp_path):
  check(tmp_path, case)


def test_the_programs_written_by_hand_pass_as_is_said():
  for program, passes in (HUMANEVAL_PROGRAMS | MBPP_PROGRAMS).items():
    try:
      exec(compile(program, 'program', 'exec'), {})  # noqa: S102
    except AssertionError:
      assert not passes
    else:
      assert passes


def test_a_missing_solved_task_is_one_line():
  with pytest.raises(InputError, match='no task_id 3'):
    programs.tasks([mbpp(2, 'f', ''), mbpp(4, 'f', '')])


def test_nothing_is_generated_where_programs_may_not_run(tmp_path):
  questions = asked(tmp_path, CASES[0])
  with pytest.raises(InputError, match='run_generated_code'):
    suite.score(questions, Writer(AssertionError), None)
