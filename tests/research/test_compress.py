"""Study 5: its tables, from what sweeps might have measured."""

import json
import pathlib
import shutil
from unittest import mock

import pytest

from moejax.core import errors
from moejax.research import compress, compress_tables
from moejax.run import compression_sweep
from moejax.sweep import sweep_file


def scores(code, prose, **more):
  return {'sets': {'code': {'loss': code}, 'prose': {'loss': prose}}, **more}


RUNS = [
  {
    'full': scores(2.0, 3.0),
    'easy_ep=8': scores(2.25, 3.25, method='easy_ep', keep=8),
    'random=8': scores(3.0, 4.5, method='random', keep=8),
  },
  {
    'full': scores(2.0, 3.0),
    'easy_ep=8': scores(2.5, 3.5, method='easy_ep', keep=8),
    'random=8': scores(3.0, 5.0, method='random', keep=8),
  },
]


def test_a_rise_is_the_mean_loss_over_that_of_the_full_model():
  assert compress_tables.rise(RUNS[0], 'easy_ep=8') == 0.25
  assert compress_tables.rise(RUNS[1], 'random=8') == 1.5
  assert compress_tables.losses(RUNS[0], 'random', 8) == {
    'code': 1.0,
    'prose': 1.5,
  }


def test_methods_have_mean_and_deviation_over_runs():
  rises = {
    name: {8: [compress_tables.rise(run, f'{name}=8') for run in RUNS]}
    for name in ('easy_ep', 'random')
  }
  # .25 and .5; 1.25 and 1.5
  assert compress_tables.method_rows(rises, [8]) == [
    ['method', '8 experts', 'paper'],
    ['easy_ep', '0.375 ± 0.177', '66.55'],
    ['random', '1.375 ± 0.177', '17.44'],
  ]
  assert compress_tables.ablation_rows(rises, [8])[1:] == [
    ['easy_ep', '0.375 ± 0.177', '72.81']
  ]


def test_overlap_is_the_share_of_experts_in_both_choices():
  # 2 of 2, and 1 of 3.
  assert compress_tables.overlap(
    [[0, 1], [2, 3, 4]], [[1, 0], [4]]
  ) == pytest.approx((1 + 1 / 3) / 2)


def test_domains_are_rows_of_the_calibration_and_columns_of_the_evaluation():
  texts = [
    {'all': {'code': 0.5, 'prose': 0.5}, 'code': {'code': 0.25, 'prose': 1.0}}
  ]
  assert compress_tables.domain_rows(texts) == [
    ['calibrated on', 'code', 'prose'],
    ['all', '0.500', '0.500'],
    ['code', '0.250', '1.000'],
  ]


def test_amounts_of_text_and_recovery_have_a_row_each():
  counts = [
    {1: {'overlap': 0.5, 'rise': 1.0}, 25: {'overlap': 1.0, 'rise': 0.5}},
    {1: {'overlap': 0.75, 'rise': 2.0}, 25: {'overlap': 1.0, 'rise': 0.5}},
  ]
  assert compress_tables.token_rows(counts)[1:] == [
    ['1', '62.5%', '1.500 ± 0.707'],
    ['25', '100.0%', '0.500 ± 0.000'],
  ]
  recovered = {'easy_ep': {'before': [0.5], 'text': [0.25], 'teacher': []}}
  assert compress_tables.recovery_rows(recovered)[1:] == [
    ['easy_ep', '0.500', '0.250', '-']
  ]


def test_the_order_of_the_paper_is_tested_within_runs():
  rises = {
    'easy_ep': {8: [0.1, 1.11]},
    'gate_score': {8: [0.3, 1.31]},
    'frequency': {8: [0.2, 1.2]},
    'm_smoe': {8: []},
    'random': {8: [0.9, 1.9]},
  }
  # Of four methods, frequency alone is before its place; the second model has
  # a loss that is higher by 1 with all of them.
  assert compress.order_of(rises, 8) == {
    'same': 5,
    'opposite': 1,
    'undecided': 0,
  }


def test_the_amount_of_text_is_compared_with_the_largest(monkeypatch):
  asked = []

  def sweep(workdir, request, overrides, **more):
    asked.append(request)
    number = request.calibration.tokens
    kept = [[0, 1]] if number > 2 * 1024 else [[0, 2]]
    measured = {
      'full': scores(1.0, 1.0),
      'easy_ep=2': scores(1 + 512 / max(number, 1), 1.0, kept=kept),
    }
    return {'measured': measured}

  monkeypatch.setattr(compression_sweep, 'sweep', sweep)
  result = compress.by_tokens('run', 2, 3)
  assert list(result) == list(compress.TOKENS)
  # 1,024 tokens of each of two sets: 512 / 2048 on one of them.
  assert result[1024] == {'rise': pytest.approx(0.125), 'overlap': 0.5}
  assert result[4096]['overlap'] == 1.0
  # All tokens that are asked for, whatever the number of documents.
  assert {request.calibration.documents for request in asked[1:]} == {0}
  # Statistics of another amount are in another folder.
  assert len({request.statistics for request in asked}) == len(asked)
  assert len({request.out for request in asked}) == len(asked)


def test_the_command_writes_every_table_of_the_page(
  tmp_path, monkeypatch, capsys
):
  shutil.copy('docs/studies/compress.md', tmp_path)

  def sweep(workdir, request, overrides, **more):
    assert bool(overrides) == workdir.endswith('imported2')
    better = int(workdir[-1]) / 100
    measured = {'full': scores(2.0, 3.0)}
    for place, method in enumerate(request.methods):
      for keep in request.keeps:
        loss = 2 + place / 10 + better
        name = compression_sweep.name_of(method, keep)
        about = {'method': method, 'keep': keep, 'kept': [[0, 1]]}
        measured[name] = scores(loss, loss + 1, **about)
    return {'measured': measured}

  monkeypatch.setattr(compression_sweep, 'sweep', sweep)
  finished = [mock.Mock(workdir=tmp_path / f'run{seed}') for seed in (0, 1)]
  monkeypatch.setattr(compress.runs, 'finished', lambda *a: finished)
  imported = (f'--imported={tmp_path}/imported2', '--vocab=sentencepiece')
  compress.main([f'--out={tmp_path}', '--keep=16,8', *imported])
  page = (tmp_path / 'compress.md').read_text()
  lines = page.splitlines()
  # easy_ep is the first method, frequency the sixth; mc_smoe is not among them.
  assert any(
    line.split()[1:5] == ['easy_ep', '|', '0.005', '±'] for line in lines
  )
  assert any(
    line.split()[1:5] == ['frequency', '|', '0.505', '±'] for line in lines
  )
  assert '| mc_smoe' not in page
  # Without --recovery a table is empty.
  assert page.count('No run that this table needs is finished.') == 1
  numbers = json.loads((tmp_path / 'compress.json').read_text())
  assert numbers.keys() >= {'methods', 'order', 'ablation', 'domains'}
  assert (tmp_path / 'compress.png').exists()
  assert 'gate_score' in capsys.readouterr().out


def test_smaller_models_are_made_after_the_sweep_alone(tmp_path, monkeypatch):
  finished = [mock.Mock(workdir=tmp_path / 'run0')]
  monkeypatch.setattr(compress.runs, 'finished', lambda *a: finished)
  with pytest.raises(errors.InputError, match='run this command without'):
    compress.main(['--make'])


def test_recoveries_are_read_where_the_sweep_trains_them(tmp_path, monkeypatch):
  trained = {run.name: run for run in sweep_file.load(compress.RECOVERY)}
  run = mock.Mock(workdir=tmp_path / 'compress' / 'demo-seed=1', seed=1)
  losses = {str(run.workdir): 2.0}
  for name, one in trained.items():
    if name.endswith('seed=1'):
      method, kind, _ = name.split('-')
      losses[str(tmp_path / 'after' / name)] = 2.25 + (kind == 'text') / 4
      folder = one.config.partition(':')[2]
      assert folder == f'runs/compress/smaller/demo-seed=1-{method}'
      losses[str(tmp_path / folder.removeprefix('runs/'))] = 3.0
      teacher = one.overrides['train.distillation.teacher']
      assert teacher == ('runs/compress/demo-seed=1' if kind != 'text' else '')
  for folder in losses:
    pathlib.Path(folder).mkdir(parents=True)
    (pathlib.Path(folder) / 'config.json').write_text('{}')
  monkeypatch.setattr(compress, 'mean_loss', lambda f, batches: losses[f])
  result = compress.recoveries(str(tmp_path / 'after'), [run], 1)
  assert len(result) * 6 == len(trained)
  for rows in result.values():
    assert rows == {'before': [1.0], 'text': [0.5], 'teacher': [0.25]}


def test_the_figure_has_a_panel_for_each_domain():
  figure = compress_tables.draw(RUNS)
  assert [panel.get_title() for panel in figure.axes] == ['code', 'prose']
  assert len(figure.axes[0].lines) == 3  # two methods, and the full model
