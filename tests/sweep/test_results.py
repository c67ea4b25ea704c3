"""From folders of runs to a table in a document, with reports made by hand."""

import dataclasses
import json
import math

import pytest

from moejax import config
from moejax.core import config_tree, errors, exits
from moejax.sweep import grid
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
TINY = config.load('configs/tiny.py:tiny', [('train.steps', '20')])
RUNS = grid.seeds(grid.run('a.py') + grid.run('b.py'), 3)


def _log(folder, lines):
  folder.mkdir(parents=True, exist_ok=True)
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
  report = {'domains': domains, 'training_flops': 7e12, **parameters}
  (folder / 'report.json').write_text(json.dumps(report))


@pytest.fixture
def results(tmp_path):
  """a: two seeds finished, one stopped; b: one finished, two failed."""
  _finish(tmp_path / 'a-seed=0', (2.0, 3.0))
  _finish(tmp_path / 'a-seed=1', (2.2, 3.4))
  _log(tmp_path / 'a-seed=2', LOGGED[:7])
  _finish(tmp_path / 'b-seed=0', (2.0, 2.0))
  why = 'error: a | b\nis wrong'
  outcomes = {
    'a-seed=0': Outcome(0, '', 60.0),
    'a-seed=1': Outcome(0, '', 62.0),
    'a-seed=2': Outcome(exits.INTERRUPTED, 'interrupted: ...', 20.0),
    'b-seed=0': Outcome(0, '', 50.0),
    'b-seed=1': Outcome(exits.BAD_INPUT, why, 1.0),
    'b-seed=2': Outcome(exits.BAD_INPUT, why, 1.0),
  }
  for run in RUNS:
    results_lib.record(tmp_path, run, outcomes[run.name], 2)
  return _read(tmp_path)


def _read(folder):
  return [
    results_lib.read(run, _config(run.overrides['seed']), folder)
    for run in RUNS
  ]


def _config(seed):
  return dataclasses.replace(TINY, seed=int(seed))


def test_numbers_of_a_run(results):
  a = results[2]
  assert a == {
    'name': 'a-seed=1',
    'group': 'a',
    'seed': 1,
    'status': 'finished',
    'note': '',
    'loss': pytest.approx(5.6),
    'bits_per_byte': pytest.approx(2.8),
    'domains': {'code': 2.2, 'speeches': 3.4},
    'load_max': 2.5,
    'dead': 0.25,
    'dropped': pytest.approx(0.01),
    'tokens_per_s': 11_000,
    'total': 9_700_000,
    'active': 4_000_000,
    'tokens': 20 * TINY.train.batch_size * TINY.data.sequence_length,
    'flops': 7e12,
    'seconds': 62.0,
    'processes': 2,
    'chosen_dtype': None,
  }


def test_the_type_that_a_machine_chose_is_read_where_it_was_left_open(tmp_path):
  def chosen(dtype):
    tree = config_tree.to_dict(TINY)
    run = config_tree.override(TINY, 'model.dtype', dtype)
    _finish(tmp_path / 'a-seed=0', (2.0, 3.0))
    assert results_lib.read(RUNS[0], run, tmp_path)['chosen_dtype'] is None
    tree['model']['dtype'] = 'bfloat16'
    path = tmp_path / 'a-seed=0' / 'config.json'
    path.write_text(json.dumps(tree))
    found = results_lib.read(RUNS[0], run, tmp_path)['chosen_dtype']
    path.unlink()
    return found

  assert chosen('auto') == 'bfloat16'
  assert chosen('bfloat16') is None


def test_what_is_not_finished_says_why(results):
  states = {r['name']: (r['status'], r['note']) for r in results}
  assert states['a-seed=2'] == ('interrupted', 'at step 7 of 20')
  assert states['b-seed=1'] == ('failed', 'a | b\nis wrong')


def test_a_run_that_was_never_begun(tmp_path):
  assert {result['status'] for result in _read(tmp_path)} == {'not run'}


def test_a_failed_run_that_another_command_finished_is_finished(
  results, tmp_path
):
  _finish(tmp_path / 'b-seed=1', (1.0, 1.0))
  states = {r['name']: r['status'] for r in _read(tmp_path)}
  assert states['b-seed=1'] == 'finished'


def test_the_table(results):
  table = results_lib.Table(results)
  assert [row['name'] for row in table.rows] == ['b', 'a']  # 2.0, 2.65
  b, a = table.rows
  assert (a['num'], a['score']) == (2, pytest.approx(2.65))
  # Of 2.5 and 2.8, with n - 1: sqrt(2 * 0.15^2 / 1).
  assert a['spread'] == pytest.approx(0.3 / math.sqrt(2))
  assert (b['num'], b['score'], b['spread']) == (1, 2.0, None)
  lines = table.markdown().splitlines()
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
  table = results_lib.Table(_read(tmp_path))
  assert table.score == 'loss'
  text = table.markdown()
  # Dense, and never counted; all is finished, so there are no notes.
  header, _, line, _ = text.splitlines()
  assert 'note' not in header
  cells = [cell.strip() for cell in line.split('|')[1:-1]]
  assert cells == ['a', '1.500 ± 0.000', '3', *['-'] * 6]


def test_rows_without_a_score_are_the_last_in_their_order(tmp_path):
  _finish(tmp_path / 'b-seed=0', (2.0, 2.0))
  assert [r['name'] for r in results_lib.Table(_read(tmp_path)).rows] == [
    'b', 'a',
  ]  # fmt: skip
  names = [run.group for run in RUNS[:2]]
  waiting = results_lib.Table(_read(tmp_path / 'empty'))
  assert [row['name'] for row in waiting.rows] == names


def test_the_caption_says_what_all_runs_agree_on(results):
  def caption(*configs):
    return ' '.join(results_lib.Table(results).caption(configs).split())

  tokens = TINY.train.batch_size * TINY.data.sequence_length
  text = caption(TINY)
  assert text.startswith(
    f'3 of 6 runs are finished. Each trained for 20 steps of {tokens:,} '
    'tokens. Measured on the first 4 batches of each validation set. bits/byte:'
  )
  assert '(code, speeches)' in text
  assert 'up to 2 runs at a time shared the machine' in text
  overrides = [('train.steps', '9'), ('report.eval_batches', '0')]
  other = config.load('configs/tiny.py:tiny', overrides)
  assert caption(TINY, other).startswith('3 of 6 runs are finished. bits/byte:')
  assert 'Each trained for 9 steps' in caption(other)
  assert 'Measured' not in caption(other)  # on the whole sets


def test_the_picture_is_a_picture(results, tmp_path):
  path = tmp_path / 'results.png'
  results_lib.Table(results).plot(path)
  assert path.read_bytes().startswith(b'\x89PNG')


DOCUMENT = """# Routers

<!-- begin sweep routers -->
old
<!-- end sweep routers -->
<!-- begin sweep headline -->
other
<!-- end sweep headline -->
The end.
"""


def test_a_table_replaces_what_is_between_its_markers_alone(tmp_path):
  path = tmp_path / 'routers.md'
  path.write_text(DOCUMENT)
  text = results_lib.in_document(path, 'routers', '\n| new |\n')
  assert text == DOCUMENT.replace('old', '| new |')
  made = tmp_path / 'made.md'
  for table in ('first', 'second'):
    made.write_text(results_lib.in_document(made, 'mine', table))
  assert made.read_text() == (
    '# mine\n\n<!-- begin sweep mine -->\nsecond\n<!-- end sweep mine -->\n'
  )


@pytest.mark.parametrize(
  'text',
  [
    'nothing\n',
    '<!-- begin sweep routers -->\n',
    '<!-- end sweep routers -->\n<!-- begin sweep routers -->\n',
    DOCUMENT + DOCUMENT,
  ],
)
def test_a_document_without_a_place_is_refused(tmp_path, text):
  path = tmp_path / 'routers.md'
  path.write_text(text)
  with pytest.raises(errors.InputError, match='begin sweep routers -->'):
    results_lib.in_document(path, 'routers', 'new')


def test_what_a_search_chose_stands_best_first():
  runs = [
    grid.SweepRun(name, 'a.py', {'x': x, 'y': '1'}, name)
    for name, x in (('a', '7'), ('b', '8'), ('c', '9'), ('d', '-'))
  ]
  results = [
    {'name': 'a', 'status': 'finished', 'loss': 2.0},
    {'name': 'b', 'status': 'pruned', 'loss': None},
    {'name': 'c', 'status': 'finished', 'loss': 1.5},
    {'name': 'd', 'status': 'not run', 'loss': None},
  ]
  text = results_lib.searched(results, runs, ['x'])
  head, _, *rows = text.strip().splitlines()
  cells = [[c.strip() for c in line.split('|')[1:-1]] for line in (head, *rows)]
  assert cells == [
    ['run', 'loss', 'x'],
    ['c', '1.500', '9'],
    ['a', '2.000', '7'],
    ['b', '-', '8'],
  ]
