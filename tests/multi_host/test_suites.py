"""`evaluate --suite` in two processes: the results of one, written once."""

import json
import shutil

import pytest
from helpers import processes, suite_runs

from moejax.cli import evaluate
from moejax.core import exits
from moejax.evals.benchmarks import SUITES

pytestmark = pytest.mark.slow  # it starts processes
ROW = {
  'task_id': 'x',
  'question': 'What is 1?',
  'choices': ['one', 'two', 'three', 'four', 'five'],
  'answer': 'B',
  'problem_description': 'Say it.',
}
PROGRAM = '-m', 'moejax.cli.evaluate'


@pytest.mark.soak
def test_two_processes_equal_one(tmp_path, capsys):
  """Likelihoods, and samples in two batches.

  Capital letters that an untrained model writes by chance count as answers, so
  the scores depend on its texts.
  """
  suite_runs.workdir(tmp_path / 'one', 1)
  shutil.copytree(tmp_path / 'one', tmp_path / 'two')
  rows = tmp_path / 'rows'
  for config in SUITES['codemmlu']['zero_shot'].dataset.configs:
    suite_runs.write(rows / 'CodeMMLU', config, [ROW] * 4, splits=('test',))
  flags = ['--suite=codemmlu', '--tasks=letters,zero_shot', f'--data={rows}']
  flags += ['--samples=2', '--temperature=1']
  alone = [f'--workdir={tmp_path / "one"}', *flags]
  assert exits.call(evaluate.main, alone) == exits.DONE
  capsys.readouterr()
  both = [f'--workdir={tmp_path / "two"}', *flags]
  with processes.Processes(2, 2, both, program=PROGRAM) as started:
    first, second = started.wait()
  assert (first.code, second.code) == (exits.DONE, exits.DONE), (first, second)
  # Process 0 alone shows and writes.
  assert (second.out, second.err) == ([], [])
  assert any('zero_shot' in line for line in first.out)
  found, other = (
    json.loads((tmp_path / name / 'evals/codemmlu/results.json').read_text())
    for name in ('two', 'one')
  )
  tasks = found['runs'][0]['tasks']
  suite_runs.check_close(tasks, other['runs'][0]['tasks'])
  assert 0 < tasks['zero_shot']['means']['official'] < 1
  written = tmp_path / 'two' / 'evals' / 'codemmlu'
  assert sorted(p.name for p in written.rglob('*.*')) == [
    'letters.json',
    'results.json',
    'table.md',
    'zero_shot.json',
  ]
  # And again: what is done is found by both, and nothing is computed.
  with processes.Processes(2, 2, both, program=PROGRAM) as started:
    first, second = started.wait()
  assert (first.code, second.code) == (exits.DONE, exits.DONE), (first, second)
  assert any('letters (1 of 2): done before' in line for line in first.err)
