"""`evaluate --suite` in two processes: the results of one, written once."""

import json
import shutil

import pytest
from helpers import processes, suite_runs

from moejax.cli import evaluate
from moejax.core import exits

pytestmark = pytest.mark.slow  # it starts processes
NQ = [{'question': 'who wrote it', 'answer': ['Nobody']}] * 3


@pytest.mark.soak
def test_two_processes_equal_one(tmp_path, capsys):
  suite_runs.workdir(tmp_path / 'one', 1)
  shutil.copytree(tmp_path / 'one', tmp_path / 'two')
  rows = tmp_path / 'rows'
  suite_runs.write(rows, 'piqa', suite_runs.PIQA)
  suite_runs.write(rows, 'nq_open', NQ)
  flags = ['--tasks=piqa,nq_open', f'--data={rows}']
  flags += ['--samples=2', '--temperature=1']
  alone = [f'--workdir={tmp_path / "one"}', *flags]
  assert exits.call(evaluate.main, alone) == exits.DONE
  wanted = capsys.readouterr().out.splitlines()
  both = [f'--workdir={tmp_path / "two"}', *flags]
  program = ('-m', 'moejax.cli.evaluate')
  with processes.Processes(2, 2, both, program=program) as started:
    first, second = started.wait()
  assert (first.code, second.code) == (exits.DONE, exits.DONE), (first, second)
  # Process 0 alone shows and writes.
  assert (second.out, second.err) == ([], [])
  assert len([line for line in first.out if 'nq_open' in line]) == len([
    line for line in wanted if 'nq_open' in line
  ])
  found, other = (
    json.loads((tmp_path / name / 'evals/lm_eval/results.json').read_text())
    for name in ('two', 'one')
  )
  suite_runs.check_close(found['runs'][0]['tasks'], other['runs'][0]['tasks'])
  written = tmp_path / 'two' / 'evals' / 'lm_eval'
  assert sorted(p.name for p in written.rglob('*.*')) == [
    'nq_open.json',
    'piqa.json',
    'results.json',
    'table.md',
  ]
  # And again: what is done is found by both, and nothing is computed.
  with processes.Processes(2, 2, both, program=program) as started:
    first, second = started.wait()
  assert (first.code, second.code) == (exits.DONE, exits.DONE), (first, second)
  assert any('piqa (1 of 2): done before' in line for line in first.err)
