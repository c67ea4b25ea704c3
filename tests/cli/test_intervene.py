"""The command intervene: from a workdir to a table, a file and a picture."""

import dataclasses
import importlib.util
import json
import types

import pytest
from helpers import hf, programs, workdirs

from moejax.analysis.interventions import INTERVENTIONS
from moejax.cli import convert, evaluate, intervene
from moejax.core import errors, exits
from moejax.model.config import ModelConfig
from moejax.moe.config import MoEConfig
from moejax.moe.routers import ROUTERS
from moejax.run import intervening, restore

MODEL = ModelConfig(
  vocab_size=259,
  max_length=48,
  num_layers=2,
  first_dense=1,
  width=16,
  num_heads=2,
  dense_width=16,
  moe=MoEConfig(num_experts=4, expert_width=8, num_shared=1),
)
PIQA = [
  {'goal': 'Boil it', 'sol1': 'Heat.', 'sol2': 'Cool.', 'label': 0},
  {'goal': 'Dry it', 'sol1': 'Wet.', 'sol2': 'Hang it up.', 'label': 1},
]


@pytest.fixture(scope='module', autouse=True)
def _programs(tmp_path_factory):
  with programs.kept(tmp_path_factory.mktemp('compiled')):
    yield


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return workdirs.make(tmp_path_factory.mktemp('place') / 'run', MODEL)


def call(workdir, *flags):
  return exits.call(
    intervene.main, [f'--workdir={workdir}', '--batches=1', *flags]
  )


def by_value(rows, on):
  return {row['value']: row for row in rows if row['on'] == on}


@pytest.fixture(scope='module')
def masked(workdir):
  """The file of mask_top, of the values 0 and 1/4."""
  flags = ('--what=mask_top', '--values=0,1/4')
  assert call(workdir, *flags) == exits.DONE
  return json.loads((workdir / 'interventions' / 'mask_top.json').read_text())


@pytest.mark.soak
def test_the_unchanged_model_has_the_scores_of_evaluate(
  workdir, masked, capsys
):
  flags = [f'--workdir={workdir}', '--batches=1', '--json']
  assert exits.call(evaluate.main, flags) == exits.DONE
  scores = json.loads(capsys.readouterr().out)['evals']['perplexity']
  row = by_value(masked['rows'], 'synthetic')[None]
  assert row['score'] == scores['synthetic']['loss']
  assert row['difference'] is None
  assert masked['step'] == 20


def test_the_neutral_value_is_the_unchanged_model_to_the_bit(masked):
  rows = by_value(masked['rows'], 'synthetic')
  assert rows['0']['score'] == rows[None]['score']
  assert [rows['0'][key] for key in ('difference', 'low', 'high')] == [0, 0, 0]
  assert (rows['1/4']['number'], rows['0']['number']) == (0.25, 0)


def test_a_difference_is_that_of_the_losses_and_lies_in_its_interval(masked):
  rows = by_value(masked['rows'], 'synthetic')
  row = rows['1/4']
  assert row['difference'] == row['score'] - rows[None]['score'] != 0
  assert row['low'] < row['difference'] < row['high']


def test_finished_values_are_read_from_the_file_and_new_ones_join(
  workdir, masked, capsys, monkeypatch
):
  measured, read = [], []
  weights, sets = restore.weights, intervening._Scorer._sets
  monkeypatch.setattr(
    restore, 'weights', lambda *a, **k: read.append(a) or weights(*a, **k)
  )
  monkeypatch.setattr(
    intervening._Scorer, '_sets', lambda *a: measured.append(a) or sets(*a)
  )
  flags = ('--what=mask_top', '--values=1/2,1/4,0.3')
  assert call(workdir, *flags) == exits.DONE
  out, err = capsys.readouterr()
  assert (len(measured), len(read)) == (2, 1)
  assert 'mask_top=1/4: done before' in err
  # The table has what was asked, the file all that is known.
  assert 'mask_top=1/2' in out
  assert 'mask_top=0 ' not in out
  path = workdir / 'interventions' / 'mask_top.json'
  rows = json.loads(path.read_text())['rows']
  assert rows[: len(masked['rows'])] == masked['rows']
  assert [row['value'] for row in rows] == [None, '0', '1/4', '0.3', '1/2']


def test_a_file_of_another_checkpoint_is_made_anew(workdir, masked, capsys):
  flags = ('--what=mask_top', '--values=0', '--step=10', '--json')
  before = (workdir / 'interventions' / 'mask_top.json').read_text()
  assert call(workdir, *flags) == exits.DONE
  out, err = capsys.readouterr()
  assert 'was made with other step; it is made anew' in err
  result = json.loads(out)
  assert result['step'] == 10
  assert [row['value'] for row in result['rows']] == [None, '0']
  assert 'measured' not in result
  (workdir / 'interventions' / 'mask_top.json').write_text(before)


@pytest.mark.soak
def test_a_value_that_was_measured_before_a_stop_is_not_lost(
  workdir, monkeypatch
):
  sets, calls = intervening._Scorer._sets, []

  def stop(*args):
    calls.append(args)
    if len(calls) == 3:
      raise KeyboardInterrupt
    return sets(*args)

  monkeypatch.setattr(intervening._Scorer, '_sets', stop)
  flags = ('--what=forbid', '--values=0,1')
  assert call(workdir, *flags) == exits.INTERRUPTED
  assert call(workdir, *flags) == exits.DONE
  assert len(calls) == 4


@pytest.mark.parametrize(
  ('what', 'router', 'fitting'),
  [
    ('no_shared', ROUTERS['top_k'](k=2), ['0', '1']),
    # One routed expert more is not for these routers.
    ('no_shared', ROUTERS['switch'](), ['0']),
    ('no_shared', ROUTERS['hash'](), ['0']),
    # Of 4 experts 3 compute a token, so one can be replaced or masked.
    ('drop_top', ROUTERS['top_k'](k=3), ['0', '1']),
    ('mask_top', ROUTERS['top_k'](k=3), ['0', '1/16', '1/8', '3/16', '1/4']),
    ('mask_top', ROUTERS['top_k'](k=4), ['0', '1/16']),
  ],
)
def test_of_the_usual_values_those_that_fit_the_model_are_taken(
  what, router, fitting
):
  moe = dataclasses.replace(MODEL.moe, router=router)
  config = dataclasses.replace(MODEL, moe=moe)
  request = intervening.InterventionRequest(what)
  assert list(intervening.configs(config, request)) == ['unchanged', *fitting]


def test_if_no_usual_value_fits_the_first_says_why():
  config = dataclasses.replace(
    MODEL, moe=dataclasses.replace(MODEL.moe, num_shared=0)
  )
  with pytest.raises(errors.InputError, match='^no_shared=0: .* no shared ex'):
    intervening.configs(config, intervening.InterventionRequest('no_shared'))


def test_benchmarks_join_without_another_look_at_the_validation_sets(
  monkeypatch,
):
  task = types.SimpleNamespace(name='piqa', digest='that one')
  asked = []

  def answer(self, model, task):
    asked.append(task.name)
    return {'digest': task.digest}

  monkeypatch.setattr(intervening._Scorer, '_task', answer)
  monkeypatch.setattr(intervening._Scorer, '_sets', None)  # not to be called
  monkeypatch.setattr(intervening.build, 'build', lambda *_: 'a model')
  scorer = intervening._Scorer(
    opened=types.SimpleNamespace(model=types.SimpleNamespace(mesh=None)),
    weights={},
    data=None,
    asked=[task],
    request=intervening.InterventionRequest('mask_top'),
    note=lambda _: None,
    track=None,
  )
  kept = {'sets': {'code': 'as it was'}}
  both = scorer.measure('1/4', None, kept)
  assert both == kept | {'tasks': {'piqa': {'digest': 'that one'}}}
  # What has the same digest is not asked again.
  assert scorer.measure('1/4', None, both) == both
  other = {'sets': kept['sets'], 'tasks': {'piqa': {'digest': 'another'}}}
  assert scorer.measure('1/4', None, other) == both
  assert asked == ['piqa', 'piqa']


@pytest.mark.soak
def test_layers_have_a_file_of_their_own_and_benchmarks_join(
  workdir, tmp_path, capsys
):
  (tmp_path / 'piqa').mkdir()
  for split in ('validation', 'test'):
    path = tmp_path / 'piqa' / f'{split}.jsonl'
    path.write_text('\n'.join(map(json.dumps, PIQA)))
  flags = ('--what=force', '--values=3', '--layers=1')
  more = ('--suite=libmoe', '--tasks=piqa', f'--data={tmp_path}')
  assert call(workdir, *flags) == exits.DONE
  assert call(workdir, *flags, *more) == exits.DONE
  path = workdir / 'interventions' / 'force_layers_1.json'
  result = json.loads(path.read_text())
  assert result['layers'] == [1]
  rows = by_value(result['rows'], 'piqa')
  assert list(rows) == [None, '3']
  assert rows['3']['difference'] == rows['3']['score'] - rows[None]['score']
  assert rows['3']['metric'].startswith('acc')
  assert 'piqa' in capsys.readouterr().out


@pytest.mark.soak
def test_the_picture_is_drawn_or_its_package_named(
  workdir, capsys, monkeypatch
):
  picture = workdir / 'interventions' / 'temperature.svg'
  flags = ('--what=temperature', '--values=0.1,1,10')
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    'find_spec',
    lambda name: None if name == 'matplotlib' else find(name),
  )
  assert call(workdir, *flags) == exits.DONE
  assert 'matplotlib is missing' in capsys.readouterr().err
  assert not picture.exists()
  monkeypatch.undo()
  assert call(workdir, *flags) == exits.DONE
  if find('matplotlib') is not None:
    assert f'Picture: {picture}' in capsys.readouterr().err
    assert '</svg>' in picture.read_text()


@pytest.mark.soak
def test_an_imported_model_is_evaluated_on_a_text_that_is_named(tmp_path):
  folder = tmp_path / 'run'
  flags = ['import', str(hf.GOLDEN / 'qwen2_moe'), f'--workdir={folder}']
  assert exits.call(convert.main, flags) == exits.DONE
  flags = ('--what=no_shared', '--config.data.mixture=synthetic')
  assert call(folder, *flags) == exits.DONE
  path = folder / 'interventions' / 'no_shared.json'
  rows = by_value(json.loads(path.read_text())['rows'], 'synthetic')
  assert list(rows) == [None, '0', '1']
  assert len({row['score'] for row in rows.values()}) == 3


def test_all_interventions_are_listed(capsys):
  assert exits.call(intervene.main, ['--list']) == exits.DONE
  lines = capsys.readouterr().out.splitlines()[1:]
  assert [line.split()[0] for line in lines] == [*INTERVENTIONS]
  for line, entry in zip(lines, INTERVENTIONS.values(), strict=True):
    assert entry.summary in line


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--what=mask_tpo'], "unknown intervention 'mask_tpo'; did you mean"),
    (['--what=mask_top', '--values=2'], 'mask_top=2: the share must be'),
    (['--what=mask_top', '--layers=0'], '--layers=0: the layers with experts'),
    (['--what=mask_top', '--layers=one'], 'invalid list of layers'),
    (['--what=force'], '--what=force needs --values: number of the expert'),
    (['--what=mask_top', '--step=11'], 'no checkpoint 11 in'),
    (['--what=mask_top', '--limit=3'], '--limit=3 needs --suite: one of'),
    (['--what=mask_top', '--suite=libmo'], "unknown suite 'libmo'"),
    ([], '--what is missing'),
  ],
)
def test_wrong_flags_are_one_line(workdir, flags, words, capsys):
  assert call(workdir, *flags) == exits.BAD_INPUT
  out, err = capsys.readouterr()
  assert out == ''
  assert words in err


def test_a_router_that_cannot_be_changed_is_one_line(tmp_path, capsys):
  moe = MoEConfig(num_experts=4, expert_width=8, router=ROUTERS['hash']())
  config = ModelConfig(
    vocab_size=259, max_length=48, num_layers=1, width=16, num_heads=2, moe=moe
  )
  folder = workdirs.make(tmp_path / 'run', config)
  assert call(folder, '--what=mask_top') == exits.BAD_INPUT
  err = capsys.readouterr().err
  assert 'the router hash cannot be changed in this way; these can: ' in err
