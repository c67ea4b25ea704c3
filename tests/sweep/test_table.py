"""From folders of runs to a table, with reports made up by hand."""

import json
import math

import pytest

from moejax.core import exits
from moejax.sweep import grid, table
from moejax.sweep import results as results_lib
from moejax.sweep.pool import Outcome

# Twenty steps, of which the last tenth are steps 19 and 20. Speeds 1 to 20,
# none in the first: the median of 2 to 20 is 11.
LOGGED = [
  {
    'step': step,
    'moe/load_max': 100.0 if step < 19 else step - 17.0,  # at the end 2, 3
    'moe/dead_experts': 0.5 if step < 19 else 0.25,
    'moe/dropped': 0.0 if step < 20 else 0.02,
    **({'time/tokens_per_s': 1000.0 * step} if step > 1 else {}),
  }
  for step in range(1, 21)
]
RUNS = grid.seeds(grid.run('a.py') + grid.run('b.py'), 3)


def _log(folder, lines):
  folder.mkdir(parents=True)
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (folder / 'metrics.jsonl').write_text(text)


def _finish(folder, bits):
  """A finished run with these bits per byte of two domains."""
  _log(folder, LOGGED)
  domains = {
    name: {'loss': 2 * x, 'bits_per_byte': x}
    for name, x in zip(('code', 'speeches'), bits, strict=True)
  }
  parameters = {'total_parameters': 9_700_000, 'active_parameters': 4_000_000}
  report = {'domains': domains, **parameters}
  (folder / 'report.json').write_text(json.dumps(report))


@pytest.fixture
def results(tmp_path):
  """a: two seeds finished, one stopped; b: one finished, two failed."""
  _finish(tmp_path / 'a-seed=0', (2.0, 3.0))
  _finish(tmp_path / 'a-seed=1', (2.2, 3.4))
  _log(tmp_path / 'a-seed=2', LOGGED[:7])
  _finish(tmp_path / 'b-seed=0', (2.0, 2.0))
  why = 'error: a | b\nis wrong'
  for name, outcome in {
    'a-seed=0': Outcome(0, '', 60.0),
    'a-seed=1': Outcome(0, '', 62.0),
    'a-seed=2': Outcome(exits.INTERRUPTED, 'interrupted: ...', 20.0),
    'b-seed=0': Outcome(0, '', 50.0),
    'b-seed=1': Outcome(exits.BAD_INPUT, why),
    'b-seed=2': Outcome(exits.BAD_INPUT, why),
  }.items():
    results_lib.record(tmp_path, name, outcome, 2)
  return _read(tmp_path)


def _read(folder):
  kept = results_lib.records(folder)
  return [
    results_lib.read(run, 20, folder / run.name, kept.get(run.name, {}))
    for run in RUNS
  ]


def test_numbers_of_a_run(results):
  found = {result.name: result for result in results}
  a = found['a-seed=1']
  assert (a.status, a.group, a.seed) == ('finished', 'a', 1)
  assert a.bits_per_byte == pytest.approx(2.8)
  assert a.loss == pytest.approx(5.6)
  assert a.domains == {'code': 2.2, 'speeches': 3.4}
  assert (a.load_max, a.dead) == (2.5, 0.25)
  assert a.dropped == pytest.approx(0.01)
  assert a.tokens_per_s == 11_000
  assert (a.total, a.active) == (9_700_000, 4_000_000)
  assert (a.seconds, a.processes) == (62.0, 2)


def test_what_is_not_finished_says_why(results):
  found = {result.name: (result.status, result.note) for result in results}
  assert found['a-seed=2'] == ('interrupted', 'at step 7 of 20')
  assert found['b-seed=1'] == ('failed', 'a | b\nis wrong')


def test_a_run_that_was_never_begun(tmp_path):
  assert {result.status for result in _read(tmp_path)} == {'not run'}


def test_a_failed_run_that_another_command_finished_is_finished(
  results, tmp_path
):
  _finish(tmp_path / 'b-seed=1', (1.0, 1.0))
  found = {result.name: result for result in _read(tmp_path)}
  assert found['b-seed=1'].status == 'finished'


def test_the_table(results):
  rows = table.rows(results)
  assert [row.name for row in rows] == ['b', 'a']  # 2.0 is before 2.65
  b, a = rows
  assert (a.num, a.score) == (2, pytest.approx(2.65))
  # Of 2.5 and 2.8, with n - 1: sqrt(2 * 0.15^2 / 1).
  assert a.spread == pytest.approx(0.3 / math.sqrt(2))
  assert (b.num, b.score, b.spread) == (1, 2.0, None)
  lines = table.markdown(rows, 'bits_per_byte').splitlines()
  cells = [[c.strip() for c in line.split('|')[1:-1]] for line in lines[2:]]
  assert cells[1] == [
    'a', '2.650 ± 0.212', '2', '2.50', '25.0%', '1.0%', '11,000', '4.00M',
    '9.70M', 'seed 2 interrupted: at step 7 of 20',
  ]  # fmt: skip
  assert len({len(line) for line in lines}) == 1  # it is aligned
  # Both failed in the same way, and the bar does not end the cell.
  assert 'seed 1, 2 failed: a \\| b is wrong' in lines[2]


def test_without_text_the_loss_decides(tmp_path):
  domains = {'synthetic': {'loss': 1.5, 'bits_per_byte': None}}
  for run in RUNS:
    _log(tmp_path / run.name, [{'step': 1, 'loss': 1.0}])
    report = {'domains': domains}
    (tmp_path / run.name / 'report.json').write_text(json.dumps(report))
  results = _read(tmp_path)
  assert table.measure(results) == 'loss'
  text = table.markdown(table.rows(results), 'loss')
  # Dense, and never counted; all is finished, so there are no notes.
  header, _, line, _ = text.splitlines()
  assert 'note' not in header
  cells = [cell.strip() for cell in line.split('|')[1:-1]]
  assert cells == ['a', '1.500 ± 0.000', '3', *['-'] * 6]


def test_the_caption_names_what_the_speed_was_shared_with(results):
  text = ' '.join(table.caption(results, 'Each was short.').split())
  assert text.startswith('3 of 6 runs are finished. Each was short. bits/byte:')
  assert '(code, speeches)' in text
  assert 'up to 2 runs at a time shared the machine' in text


def test_the_picture_is_a_picture(results, tmp_path):
  path = tmp_path / 'results.png'
  table.plot(table.rows(results), 'bits_per_byte', path)
  assert path.read_bytes().startswith(b'\x89PNG')
