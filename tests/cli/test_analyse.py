"""From a workdir by the commands trace and analyse to measures."""

import json
import shutil

import pytest
from helpers import programs, traced, traces, workdirs

from moejax.cli import analyse, trace
from moejax.core import exits
from moejax.model.config import ModelConfig
from moejax.moe.config import MoEConfig
from moejax.moe.routers.top_k import TopK
from moejax.run import analysing, measure_source, measure_table

MODEL = ModelConfig(
  vocab_size=259,
  max_length=64,
  num_layers=2,
  first_dense=1,
  width=16,
  num_heads=2,
  dense_width=16,
  moe=MoEConfig(num_experts=4, expert_width=8, router=TopK(k=2)),
)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A workdir with two checkpoints and their traces."""
  folder = workdirs.make(tmp_path_factory.mktemp('run'), MODEL)
  with programs.kept(tmp_path_factory.mktemp('compiled')):
    flags = [f'--workdir={folder}', '--checkpoints=all', '--tokens=400']
    assert exits.call(trace.main, flags) == exits.DONE
    yield folder


def _call(workdir, *flags):
  return exits.call(analyse.main, [f'--workdir={workdir}', *flags])


def test_measures_of_traces_weights_and_outputs(workdir, capsys):
  names = 'saturation,coactivation,weight_similarity,output_similarity'
  assert _call(workdir, f'--measures={names}', '--json') == exits.DONE
  result = json.loads(capsys.readouterr().out)
  assert result['step'] == 20
  assert list(result['measures']) == names.split(',')
  rows = result['measures']
  assert 0 < rows['saturation']['step 10, layer 1']['topk'] < 1
  assert len(rows['coactivation']['layer 1']['matrix']) == 4
  # Weights are drawn at random, so experts are next to orthogonal.
  assert 0 < rows['weight_similarity']['layer 1']['mean'] < 0.2
  similar = rows['output_similarity']['layer 1']
  assert similar['mean_low'] < similar['mean'] < similar['mean_high'] < 0.9
  for name in names.split(','):
    kept = json.loads((workdir / 'analysis' / f'{name}.json').read_text())
    assert kept['rows'] == rows[name]


def test_the_page_measures_the_weights_of_a_small_model(workdir, monkeypatch):
  path = workdir / 'analysis' / 'weight_similarity.json'
  path.unlink(missing_ok=True)
  measured = lambda **flags: analysing.measured(
    str(workdir), names=['weight_similarity'], **flags
  )
  assert measured(writes=False) == {}
  monkeypatch.setattr(measure_source, 'SOON_READ', 1000)
  assert measured() == {}
  monkeypatch.undo()
  rows = measured()['weight_similarity']
  assert list(rows) == ['layer 1']
  assert json.loads(path.read_text())['rows'] == rows
  # They stay, without another look at the weights.
  monkeypatch.setattr(measure_source, 'SOON_READ', 0)
  assert measured(writes=False)['weight_similarity'] == rows


def test_weights_that_cannot_be_read_leave_the_rest_of_the_page(
  workdir, tmp_path
):
  copy = tmp_path / 'run'
  shutil.copytree(workdir, copy)
  (copy / 'analysis' / 'weight_similarity.json').unlink(missing_ok=True)
  names = ['margin', 'weight_similarity']
  (copy / 'checkpoints' / '00000020' / 'meta.json').write_text('{')
  said = []
  assert list(analysing.measured(str(copy), said.append, names=names)) == [
    'margin'
  ]
  assert said[-1].startswith('weight_similarity is left out: ')
  shutil.rmtree(copy / 'checkpoints' / '00000020')
  assert list(analysing.measured(str(copy), names=names)) == ['margin']


def test_tables_of_measures(workdir, capsys):
  assert _call(workdir, '--measures=saturation,load') == exits.DONE
  shown = capsys.readouterr().out
  assert 'step 20' in shown
  assert '±' in shown
  assert 'unused' in shown


def test_tables_show_tokens_as_text(workdir, tmp_path):
  rows = {'expert 3': {'rate': 0.5, 'tokens': [[107, 12, 0.5, 3.0]]}}
  shown = measure_table.for_table(workdir, 'vocabulary', rows)
  assert shown == {'expert 3': {'rate': 0.5, 'tokens': "'h'"}}
  # A folder without a vocabulary.
  shown = measure_table.for_table(tmp_path, 'vocabulary', rows)
  assert shown['expert 3']['tokens'] == 'id 107'


def test_traces_of_another_model_are_refused(workdir, tmp_path, capsys):
  theirs = tmp_path / 'theirs'
  theirs.mkdir()
  for field, words in (
    ('model', 'another model than that of'),
    ('tokenizer', 'another tokenizer than that of'),
  ):
    path = theirs / '00000020.parquet'
    traces.write(path, [traced.random(step=20)], **{field: 'other'})
    flags = ['--measures=margin', f'--traces={theirs}']
    assert _call(workdir, *flags) == exits.BAD_INPUT
    assert words in capsys.readouterr().err


def test_traces_may_lie_elsewhere(workdir, tmp_path, capsys):
  copy = tmp_path / 'copy'
  shutil.copytree(workdir / 'traces', copy)
  named = ','.join(map(str, sorted(copy.glob('*.parquet'))))
  for place in (copy, named):
    flags = ['--measures=change_rate', f'--traces={place}']
    assert _call(workdir, *flags) == exits.DONE
    assert 'step 20, layer 1' in capsys.readouterr().out
