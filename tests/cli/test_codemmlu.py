"""CodeMMLU's report: scores of kinds and positions, and the submission."""

import dataclasses
import json

import pytest
from helpers.generated_cases import Writer, write_rows

from moejax.cli import codemmlu as cli
from moejax.core.errors import InputError
from moejax.evals import codemmlu_report, prompts, suite
from moejax.evals.benchmarks import SUITES
from moejax.evals.benchmarks.codemmlu_prompts import KINDS

OUTPUTS = ['(A)'] * 8 + ['The answer is (B).', 'no answer']


def rows():
  """A row of each subset, the right option is B; two of the last."""
  return [
    {
      'task_id': f't{i}',
      'question': f'What is {i}?',
      'choices': ['one', 'two'],
      'answer': 'B',
      'problem_description': 'Say it.',
      'config': config,
    }
    for i, config in enumerate([*KINDS, 'software_principles'])
  ]


@pytest.fixture
def folder(tmp_path):
  write_rows(tmp_path, 'CodeMMLU', 'test', rows())
  return tmp_path


def result(folder, name='zero_shot', limit=0, outputs=OUTPUTS):
  asked = prompts.ask(name, SUITES['codemmlu'][name], str(folder), limit=limit)
  return suite.score(asked, Writer(outputs[: len(asked.items)]))


def test_kinds_are_means_over_questions():
  groups = {
    'others': {'items': 3, 'strict': 1.0},
    'dbms_sql': {'items': 1, 'strict': 0.0},
    'code_repair': {'items': 4, 'strict': 0.5},
  }
  assert codemmlu_report.by_kind(groups, 'strict') == {
    'code_repair': 0.5,
    'dbms_sql': 0.0,
    'others': 1.0,
    'real_world': 0.5,
    'semantic': 0.75,
    'overall': 5 / 8,
  }


def test_positions_of_a_model_that_prefers_one(folder):
  shifted = result(folder, 'permuted', outputs=['A'] * 20)
  assert shifted.score == 0.5
  assert codemmlu_report.position_bias(shifted.groups, 'strict') == {
    'A': 1.0,
    'B': 0.0,
    'largest difference': 1.0,
  }
  assert codemmlu_report.position_bias(result(folder).groups, 'strict') == {}


def test_the_largest_difference_is_between_the_best_and_worst_position():
  groups = {
    f'right option at {letter}': {'strict': score, 'items': 2}
    for letter, score in {'C': 0.75, 'A': 0.25, 'B': 0.5}.items()
  }
  assert codemmlu_report.position_bias(groups, 'strict') == {
    'A': 0.25,
    'B': 0.5,
    'C': 0.75,
    'largest difference': 0.5,
  }


def test_the_submission_has_a_line_for_each_answer(folder):
  text, silent = codemmlu_report.submission(result(folder), str(folder))
  assert text == ''.join(f't{i} A\n' for i in range(8)) + 't8 B\n'
  assert silent == 1


def test_a_submission_of_other_rows_is_refused(folder):
  part = result(folder, limit=1)
  with pytest.raises(InputError, match='not of all rows'):
    codemmlu_report.submission(part, str(folder))


def test_several_answers_to_a_question_give_no_submission(folder):
  sampled = dataclasses.replace(result(folder), samples=3)
  with pytest.raises(InputError, match='3 answers to each question'):
    codemmlu_report.submission(sampled, str(folder))


def test_shifted_options_give_no_submission(folder):
  shifted = result(folder, 'permuted', outputs=['A'] * 20)
  with pytest.raises(InputError, match='permuted gives no submission'):
    codemmlu_report.submission(shifted, str(folder))


def test_the_command_prints_scores_and_writes_the_submission(folder, capsys):
  path, out = folder / 'zero_shot.json', folder / 'answers.txt'
  value = {'result': result(folder).to_json(), 'made_with': {'seed': 0}}
  path.write_text(json.dumps(value))
  cli.main([
    f'--result={path}',
    f'--submission={out}',
    f'--data={folder}',
    '--metric=official',
  ])
  printed = capsys.readouterr()
  lines = dict(
    line.split() for line in printed.out.splitlines() if ' 0.' in line
  )
  assert lines['software_principles'] == '0.500'
  assert lines['semantic'] == '0.250'
  assert lines['overall'] == '0.100'
  assert '9 answers; 1 questions have none' in printed.err
  assert out.read_text().endswith('t8 B\n')


@pytest.mark.parametrize('text', ['', '[]', '{"result": {}, "made_with": {}}'])
def test_a_file_that_is_no_result_is_one_line(tmp_path, text):
  path = tmp_path / 'x.json'
  path.write_text(text)
  with pytest.raises(InputError, match='is not the result of a task'):
    cli.main([f'--result={path}'])
  with pytest.raises(InputError, match='--config.x: this command has'):
    cli.main([f'--result={path}', '--config.x=1'])


def test_a_result_of_another_suite_is_one_line(folder, tmp_path):
  other = dataclasses.replace(result(folder), benchmark='piqa', groups={})
  path = tmp_path / 'piqa.json'
  value = {'result': other.to_json(), 'made_with': {'seed': 0}}
  path.write_text(json.dumps(value))
  with pytest.raises(InputError, match='piqa is no task of the suite codemmlu'):
    cli.main([f'--result={path}'])


def test_an_unknown_metric_is_one_line(folder):
  path = folder / 'zero_shot.json'
  value = {'result': result(folder).to_json(), 'made_with': {'seed': 0}}
  path.write_text(json.dumps(value))
  with pytest.raises(InputError, match='official, strict'):
    cli.main([f'--result={path}', '--metric=accuracy'])
