"""Programs: HumanEval (arXiv 2107.03374) and MBPP (arXiv 2108.07732).

A continuation is right if a program made of it and the row's tests runs without
an exception; see moejax/evals/sandbox.py.
"""

from collections.abc import Sequence
from typing import Any

from moejax.core.errors import InputError
from moejax.evals.benchmark import Dataset, Prompt, Row
from moejax.evals.benchmarks.free_form import generated, longer

HUMANEVAL_ROWS = Dataset(
  'openai/openai_humaneval',
  '',
  'test',
  {'prompt': str, 'test': str, 'entry_point': str, 'canonical_solution': str},
)
MBPP_ROWS = Dataset(
  'google-research-datasets/mbpp',
  'full',
  'test',
  {'task_id': int, 'text': str, 'code': str, 'test_list': list},
  shots_split='prompt',
  tfds='mbpp/full',
)
# MBPP's solved tasks in its paper's prompt.
SHOTS = (2, 3, 4)
TESTS = 3


def humaneval(row: Row) -> Prompt:
  """The beginning of a function, which the continuation completes."""

  def program(text: str) -> str:
    call = f'check({row["entry_point"]})'
    return f'{row["prompt"]}{text}\n{row["test"]}\n{call}\n'

  return Prompt(
    row['prompt'],
    program=program,
    stops=('\nclass', '\ndef', '\n#', '\nif', '\nprint'),
    max_tokens=1024,
  )


def mbpp(row: Row) -> Prompt:
  """The task with its three tests, and a program between two marks."""
  tests = '\n'.join(row['test_list'][:TESTS])

  def program(text: str) -> str:
    # It makes values of the solution's own classes, such as the nodes of a
    # tree, so it stands behind the solution.
    setup = row.get('test_setup_code') or ''
    return f'{text}\n{setup}\n{tests}\n'

  return Prompt(
    'You are an expert Python programmer, and here is your task: '
    f'{row["text"]} Your code should pass these tests:\n\n{tests}\n[BEGIN]\n',
    program=program,
    stops=('[DONE]',),
  )


def done(row: Row) -> str:
  """The right program and the mark behind it."""
  code = row['code'].replace('\r\n', '\n')
  return f'{code}\n[DONE]'


def tasks(rows: Sequence[Row]) -> list[Row]:
  """The solved tasks of the paper's prompt, in its order.

  Raises:
    InputError: a task is missing.
  """
  by_id = {row['task_id']: row for row in rows}
  missing = [task for task in SHOTS if task not in by_id]
  if missing:
    raise InputError(
      f'the solved tasks of MBPP have no task_id {missing[0]}: read its split '
      "'prompt'"
    )
  return [by_id[task] for task in SHOTS]


SOLVED: dict[str, Any] = {'shots': len(SHOTS), 'fixed': tasks}
PASS = 'pass@1'
HUMANEVAL = generated(
  HUMANEVAL_ROWS, humaneval, lambda row: row['canonical_solution'], PASS
)
MBPP = generated(MBPP_ROWS, mbpp, done, PASS, **SOLVED)

DEEPSEEKMOE = {
  'humaneval': HUMANEVAL,
  'mbpp': generated(
    MBPP_ROWS, longer(mbpp), done, PASS, between='\n', **SOLVED
  ),
}
