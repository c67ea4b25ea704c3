"""The command compress: from a workdir to a smaller one, a mask or a table."""

import dataclasses
import importlib.util
import json

import jax
import numpy as np
import pytest
from helpers import expert_statistics, hf, programs, workdirs

from moejax import main
from moejax.cli import compress, convert, evaluate
from moejax.compress import METHODS
from moejax.core import exits, trees
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.moe.config import MoEConfig
from moejax.moe.routers import ROUTERS
from moejax.parallel import mesh as meshes
from moejax.run import (
  calibrating,
  calibration_text,
  compression_command,
  compression_sweep,
  restore,
  statistics_folder,
  trained,
)

MODEL = ModelConfig(
  vocab_size=259,
  max_length=48,
  num_layers=3,
  first_dense=1,
  width=16,
  num_heads=2,
  dense_width=16,
  moe=MoEConfig(
    num_experts=4, expert_width=8, num_shared=1, router=ROUTERS['top_k'](k=2)
  ),
)


@pytest.fixture(scope='module', autouse=True)
def _programs(tmp_path_factory):
  with programs.kept(tmp_path_factory.mktemp('compiled')):
    yield


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return workdirs.make(tmp_path_factory.mktemp('place') / 'run', MODEL)


@pytest.fixture(scope='module')
def texts(tmp_path_factory):
  """Two domains of six documents."""
  folder = tmp_path_factory.mktemp('texts')
  for name, words in (('code', 'x = f(y)\n'), ('prose', 'In the beginning. ')):
    documents = [json.dumps({'text': words * n}) for n in (1, 2, 3, 4, 5, 6)]
    (folder / f'{name}.jsonl').write_text('\n'.join(documents))
  return folder


def call(*flags):
  return exits.call(compress.main, [*map(str, flags)])


def refused(capsys, *flags):
  """The one line with which a command refuses."""
  assert call(*flags) == exits.BAD_INPUT
  out, err = capsys.readouterr()
  assert out == ''
  return err


def weights_of(workdir):
  run = restore.run_of(str(workdir))
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  model = build.build(run.model, mesh)
  tree, step = restore.weights(model, str(workdir), lambda _: None)
  return trees.leaves(jax.device_get(tree)), step


def loss_of(workdir, capsys):
  flags = [f'--workdir={workdir}', '--json', '--batches=1']
  assert exits.call(evaluate.main, flags) == exits.DONE
  scores = json.loads(capsys.readouterr().out)['evals']['perplexity']
  return scores['synthetic']['loss']


def made_up_statistics(workdir, folder, step=0):
  """Statistics of a workdir's model that need no pass over a text.

  In the first layer two experts matter more than in the others.
  """
  opened = trained.open_trained(str(workdir))
  fingerprint = calibrating.fingerprint(str(workdir), opened.model, step)
  sizes = opened.model.config.num_moe, opened.model.config.moe.num_experts
  one = expert_statistics.random(*sizes, checkpoint=fingerprint)
  easy_ep_NE = np.ones(sizes)
  easy_ep_NE[0, :2] = 100
  one = dataclasses.replace(one, easy_ep_NE=easy_ep_NE)
  statistics_folder.save(folder, {'text': one}, {})


@pytest.fixture(scope='module')
def statistics(workdir, tmp_path_factory):
  """The flag of made-up statistics of the workdir's model."""
  folder = tmp_path_factory.mktemp('made_up') / 'statistics'
  made_up_statistics(workdir, folder, step=20)
  return f'--statistics={folder}'


@pytest.fixture(scope='module')
def pruned(workdir, texts, tmp_path_factory):
  """A workdir with 2 of 4 experts, and where its statistics are."""
  place = tmp_path_factory.mktemp('pruned')
  flags = (
    f'--workdir={workdir}',
    '--method=easy_ep',
    '--keep=2',
    f'--files={texts}/*.jsonl',
    '--domains=code.jsonl=3,prose.jsonl=1',
    '--documents=4',
    f'--statistics={place}/statistics',
    f'--to={place}/run',
  )
  assert call(*flags) == exits.DONE
  return place


def test_the_new_workdir_has_the_kept_experts_of_the_old_one(workdir, pruned):
  about = json.loads((pruned / 'run' / 'compression.json').read_text())
  assert [layer['layer'] for layer in about['layers']] == [1, 2]
  old, _ = weights_of(workdir)
  new, step = weights_of(pruned / 'run')
  assert step == 0
  assert restore.run_of(str(pruned / 'run')).model.moe.num_experts == 2
  for n, layer in enumerate(about['layers']):
    kept = layer['kept']
    assert len(kept) == 2
    for path, axis in (
      ('moe/ffn/routed/w_in_ED2F', 0),
      ('moe/ffn/routed/w_out_EFD', 0),
      ('moe/ffn/router/w_DE', 1),
    ):
      wanted = np.take(old[path][n], kept, axis=axis)
      np.testing.assert_array_equal(new[path][n], wanted)
  for path in ('embed_VD', 'moe/ffn/shared/w_in_D2F', 'dense/ffn/w_in_D2F'):
    if path in old:
      np.testing.assert_array_equal(new[path], old[path])


def test_the_manifest_says_what_was_made_from_what(workdir, pruned):
  about = json.loads((pruned / 'run' / 'compression.json').read_text())
  assert about['from'] == str(workdir)
  assert (about['step'], about['method'], about['keep']) == (20, 'easy_ep', 2)
  assert {name: x['weight'] for name, x in about['domains'].items()} == {
    'code.jsonl': 3,
    'prose.jsonl': 1,
  }
  # Four documents of 1 to 4 times the words, each with its end.
  assert about['domains']['code.jsonl']['tokens'] == 10 * len('x = f(y)\n') + 4
  assert about['experts'] == [4, 2]
  # Per expert and layer three matrices of 16 x 8, and a column of the router.
  old, new = about['parameters']
  assert old - new == 2 * 2 * (3 * 16 * 8 + 16)
  assert about['bytes'] == [4 * old, 4 * new]


@pytest.mark.soak
def test_the_new_workdir_is_evaluated(pruned, capsys):
  assert np.isfinite(loss_of(pruned / 'run', capsys))


def test_keeping_all_experts_is_the_model_to_the_bit(
  workdir, statistics, tmp_path, capsys
):
  place = tmp_path / 'all'
  flags = ('--method=gate_score', '--keep=4', '--json', f'--to={place}')
  assert call(f'--workdir={workdir}', *flags, statistics) == exits.DONE
  about = json.loads(capsys.readouterr().out)
  assert about['parameters'][0] == about['parameters'][1]
  old, new = weights_of(workdir)[0], weights_of(place)[0]
  assert old.keys() == new.keys()
  for path, array in old.items():
    assert array.tobytes() == new[path].tobytes()


def test_statistics_that_were_kept_are_used_and_give_the_same_choice(
  workdir, pruned, monkeypatch, capsys
):
  monkeypatch.setattr(
    compression_sweep.calibrating, 'calibrate', lambda *a, **k: 1 / 0
  )
  flags = (
    f'--workdir={workdir}',
    '--method=easy_ep',
    '--keep=2',
    '--domains=code.jsonl=3,prose.jsonl=1',
    f'--statistics={pruned}/statistics',
    f'--mask={pruned}/mask.json',
  )
  assert call(*flags) == exits.DONE
  mask = json.loads((pruned / 'mask.json').read_text())
  about = json.loads((pruned / 'run' / 'compression.json').read_text())
  assert [np.flatnonzero(row).tolist() for row in mask] == [
    layer['kept'] for layer in about['layers']
  ]
  assert '4 of 8 experts of all layers stay' in capsys.readouterr().out
  assert 'exists; name another file' in refused(capsys, *flags)


@pytest.mark.parametrize('method', ['m_smoe', 'm_smoe_cut', 'm_smoe_outputs'])
def test_merged_models_are_workdirs_too(
  method, workdir, statistics, tmp_path, capsys
):
  flags = (f'--method={method}', '--keep=2', statistics)
  place = tmp_path / 'run'
  made = call(f'--workdir={workdir}', *flags, '--json', f'--to={place}')
  assert made == exits.DONE
  about = json.loads(capsys.readouterr().out)
  assert sum(len(layer['kept']) for layer in about['layers']) == 4
  for layer in about['layers']:
    assert sorted(set(layer['into'])) == layer['kept']
  # Four experts of both layers are gone, and are counted once.
  old, new = about['parameters']
  shared = METHODS[method].shared_router
  assert old - new == 4 * 3 * 16 * 8 + (0 if shared else 4 * 16)
  # A shared expert is stored for each of its members; float32.
  repeated = 4 * 4 * 3 * 16 * 8 if shared else 0
  assert about['repeated_bytes'] == repeated
  assert about['bytes'] == [4 * old, 4 * new + repeated]
  stored = sum(array.nbytes for array in weights_of(place)[0].values())
  assert about['bytes'][1] == stored
  assert weights_of(place)[1] == 0


@pytest.mark.soak
def test_layer_by_layer_gives_the_same_choice(workdir, texts, tmp_path):
  flags = (f'--workdir={workdir}', '--method=easy_ep', '--keep=2')
  masks = []
  for name, more in (('whole', ()), ('layers', ('--by_layer',))):
    path = tmp_path / f'{name}.json'
    text = f'--files={texts}/*.jsonl'
    assert call(*flags, *more, text, f'--mask={path}') == exits.DONE
    masks.append(json.loads(path.read_text()))
  assert masks[0] == masks[1]
  assert np.shape(masks[0]) == (2, 4)


@pytest.mark.soak
def test_a_smaller_model_trains_on(pruned, tmp_path):
  flags = [
    f'--config=configs/hf/continue.py:{pruned}/run',
    f'--workdir={tmp_path}/more',
    '--config.data.mixture=synthetic',
    '--config.data.sequence_length=16',
    '--config.train.steps=2',
    '--config.train.eval_batches=1',
    '--config.report.eval_batches=1',
    '--config.report.samples=false',
    '--config.report.page=false',
    '--config.opt.schedule.warmup=1',
  ]
  assert exits.call(main.main, flags) == exits.DONE
  new, step = weights_of(tmp_path / 'more')
  assert step == 2
  old, _ = weights_of(pruned / 'run')
  path = 'moe/ffn/routed/w_in_ED2F'
  assert old[path].shape == new[path].shape
  assert 0 < np.abs(old[path] - new[path]).max() < 1e-3


@pytest.mark.parametrize(
  'method', ['easy_ep', pytest.param('m_smoe_cut', marks=pytest.mark.soak)]
)
def test_an_imported_model_becomes_smaller_and_is_exported(method, tmp_path):
  full, small, folder = (tmp_path / name for name in ('full', 'small', 'hf'))
  flags = ['import', str(hf.GOLDEN / 'qwen2_moe'), f'--workdir={full}']
  assert exits.call(convert.main, flags) == exits.DONE
  experts = restore.run_of(str(full)).model.moe.num_experts
  flags_of_model = (
    f'--workdir={full}',
    f'--method={method}',
    f'--keep={experts // 2}',
    f'--statistics={tmp_path}/statistics',
  )
  made_up_statistics(full, tmp_path / 'statistics')
  assert call(*flags_of_model, f'--to={small}') == exits.DONE
  about = json.loads((small / 'compression.json').read_text())
  # Every second layer of this model has experts.
  assert [layer['layer'] for layer in about['layers']] == [1, 3]
  flags = ['export', f'--workdir={small}', f'--to={folder}']
  assert exits.call(convert.main, flags) == exits.DONE
  config = json.loads((folder / 'config.json').read_text())
  assert config['num_experts'] == experts // 2
  flags = ['import', str(folder), f'--workdir={tmp_path}/again']
  assert exits.call(convert.main, flags) == exits.DONE
  again, _ = weights_of(tmp_path / 'again')
  for path, array in weights_of(small)[0].items():
    np.testing.assert_array_equal(array, again[path])
  # The same folder, written from the full model.
  made = call(*flags_of_model, f'--export={tmp_path}/direct')
  assert made == exits.DONE
  for name in ('model.safetensors', 'config.json'):
    direct = (tmp_path / 'direct' / name).read_bytes()
    assert direct == (folder / name).read_bytes()
  about = json.loads((tmp_path / 'direct' / 'compression.json').read_text())
  size = (folder / 'model.safetensors').stat().st_size
  # Without the names in front of the tensors.
  assert 0 <= size - about['bytes'][1] < 10_000


def test_a_wrong_type_of_an_export_is_refused_before_calibration(
  workdir, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(trained.Trained, 'weights', lambda *a: 1 / 0)
  flags = ('--method=easy_ep', '--keep=2', '--dtype=int8')
  err = refused(
    capsys, f'--workdir={workdir}', *flags, f'--export={tmp_path}/hf'
  )
  assert "unknown dtype 'int8'; known are: bfloat16" in err
  assert not (tmp_path / 'hf').exists()


def test_layers_may_keep_different_numbers(workdir, statistics, tmp_path):
  place = tmp_path / 'run'
  made = call(
    f'--workdir={workdir}',
    '--method=easy_ep_global',
    '--keep=3',
    statistics,
    f'--to={place}',
  )
  assert made == exits.DONE
  about = json.loads((place / 'compression.json').read_text())
  numbers = tuple(len(layer['kept']) for layer in about['layers'])
  assert sorted(numbers) == [2, 4]
  moe = restore.run_of(str(place)).model.moe
  assert (moe.num_experts, moe.experts_by_layer) == (4, numbers)
  # Experts of zeros are not counted, but stored.
  old, new = about['parameters']
  assert old - new == 2 * 3 * 16 * 8
  assert about['repeated_bytes'] == 4 * (old - new)
  assert about['bytes'] == [4 * old, 4 * old]
  words = compression_command.in_words('new', about)[0]
  assert (
    f'parameters, {4 * old / 1e6:,.1f} of {4 * old / 1e6:,.1f} MB (' in words
  )
  assert 'MB of these are zeros, in places for experts that a layer' in words


@pytest.mark.soak
def test_a_sweep_evaluates_every_method_at_every_number(workdir, tmp_path):
  out = tmp_path / 'sweep.json'
  done = call(
    f'--workdir={workdir}',
    '--sweep',
    '--method=easy_ep,easy_ep_global,m_smoe,m_smoe_cut',
    '--keep=3,4',
    f'--out={out}',
    '--batches=1',
  )
  assert done == exits.DONE
  result = json.loads(out.read_text())
  measured = result['measured']
  assert len(measured) == 9
  losses = {name: x['sets']['synthetic'] for name, x in measured.items()}
  for name, loss in losses.items():
    # All experts are the full model, to the bit.
    assert (loss == losses['full']) == (name == 'full' or name.endswith('=4'))
  assert measured['easy_ep=3']['experts'] == [3, 3]
  assert measured['easy_ep=3']['bytes'] < measured['full']['bytes']
  assert measured['m_smoe=3']['bytes'] == measured['full']['bytes']
  assert all(x['tokens_per_s'] > 0 for x in measured.values())
  # Calibration and evaluation read different halves of the text.
  (calibrated, rows, _) = result['made_with']['text']['rows']['synthetic']
  (evaluated, others) = result['made_with']['evaluated_on']['synthetic']
  assert calibrated.endswith(f'[0:{rows}]')
  assert evaluated.endswith(f'[{rows}:{rows + others}]')
  assert calibrated.split('[')[0] == evaluated.split('[')[0]


def made_up_scores(scorer, name, config, weights):
  """Scores that follow from the number of experts."""
  del scorer, weights
  loss = 3 - config.moe.num_experts / 10
  rows = [[10 * loss, 10], [30 * loss, 30]]
  scores = {'loss': loss, 'bits_per_byte': None, 'rows': rows}
  return {'tokens_per_s': 1.0, 'sets': {'synthetic': scores}}


@pytest.fixture
def swept(workdir, statistics, monkeypatch):
  """Sweeps over methods without a pass over a text."""
  scorer = compression_sweep.Scorer
  monkeypatch.setattr(scorer, 'measure', made_up_scores)

  def sweep(out, *flags):
    flags = ('--sweep', f'--out={out}', statistics, *flags)
    return call(f'--workdir={workdir}', '--batches=1', *flags)

  return sweep


@pytest.fixture
def sweep(swept, tmp_path):
  """The file of a sweep."""
  path = tmp_path / 'sweep.json'
  assert swept(path, '--method=easy_ep,random', '--keep=2,4') == exits.DONE
  return path


def test_a_sweep_evaluates_on_no_row_of_its_calibration(workdir, sweep):
  opened = trained.open_trained(str(workdir))
  text = calibration_text.open_text(
    opened, calibrating.Calibration(), print, half=True
  )
  (reader,), (rows,) = text.readers.values(), text.num_rows.values()
  made_with = json.loads(sweep.read_text())['made_with']
  evaluated, others = made_with['evaluated_on']['synthetic']
  name = reader.fingerprint.removesuffix(f'[0:{rows}]')
  assert name != reader.fingerprint
  assert evaluated == f'{name}[{rows}:{rows + others}]'


def test_a_sweep_goes_on_and_shows_what_is_asked(
  swept, sweep, capsys, monkeypatch
):
  measured = []
  measure = compression_sweep._measure
  monkeypatch.setattr(
    compression_sweep,
    '_measure',
    lambda *a: measured.append(a[2:4]) or measure(*a),
  )
  before = json.loads(sweep.read_text())['measured']
  assert list(before) == [
    'full',
    'easy_ep=2',
    'easy_ep=4',
    'random=2',
    'random=4',
  ]
  capsys.readouterr()
  flags = ('--json', '--method=frequency,random', '--keep=2')
  assert swept(sweep, *flags) == exits.DONE
  assert measured == [('frequency', 2)]
  out, err = capsys.readouterr()
  rows = json.loads(out)['rows']
  assert [row['model'] for row in rows] == ['full', 'random=2', 'frequency=2']
  assert rows[1]['difference'] == rows[1]['score'] - rows[0]['score'] > 0
  assert 'random=2: done before' in err
  after = json.loads(sweep.read_text())['measured']
  assert {name: after[name] for name in before} == before


def test_a_sweep_of_something_else_is_not_overwritten(
  swept, sweep, capsys, monkeypatch
):
  before = sweep.read_text()
  capsys.readouterr()
  flags = ('--keep=2', '--method=easy_ep', '--domains=text=1', '--step=10')
  assert swept(sweep, *flags) == exits.BAD_INPUT
  assert 'are of another checkpoint' in capsys.readouterr().err
  sweep.write_text(before.replace('"batches": 1', '"batches": 2'))
  assert swept(sweep, *flags[:2]) == exits.BAD_INPUT
  assert 'was made with other batches' in capsys.readouterr().err
  # Before a weight is read.
  monkeypatch.setattr(trained.Trained, 'weights', lambda *a: 1 / 0)
  sweep.write_text('{}')
  assert swept(sweep, *flags[:2]) == exits.BAD_INPUT
  assert 'is no result of a sweep' in capsys.readouterr().err
  assert swept(sweep.parent, *flags[:2]) == exits.BAD_INPUT
  assert 'is a folder; name a file in it' in capsys.readouterr().err


def test_a_model_that_was_measured_before_a_stop_is_not_lost(
  swept, tmp_path, monkeypatch
):
  calls = []

  def stop(*args):
    calls.append(args)
    if len(calls) == 3:
      raise KeyboardInterrupt
    return made_up_scores(*args)

  monkeypatch.setattr(compression_sweep.Scorer, 'measure', stop)
  flags = ('--method=easy_ep', '--keep=2,3')
  assert swept(tmp_path / 'sweep.json', *flags) == exits.INTERRUPTED
  assert swept(tmp_path / 'sweep.json', *flags) == exits.DONE
  assert len(calls) == 4


def test_the_table_has_a_line_for_each_model_and_a_picture(
  swept, sweep, capsys
):
  capsys.readouterr()
  assert swept(sweep, '--method=easy_ep', '--keep=2,4') == exits.DONE
  out, err = capsys.readouterr()
  head, *lines = out.splitlines()[1:]
  assert head.split()[:5] == [
    'model',
    'experts',
    'parameters',
    'MB',
    'tokens/s',
  ]
  assert [line.split()[0] for line in lines] == [
    'full',
    'easy_ep=2',
    'easy_ep=4',
  ]
  if importlib.util.find_spec('matplotlib') is None:
    assert 'matplotlib is missing' in err
  else:
    assert '</svg>' in sweep.with_suffix('.svg').read_text()


def test_all_methods_are_listed(capsys):
  assert call('--list') == exits.DONE
  lines = capsys.readouterr().out.splitlines()[1:]
  assert [line.split()[0] for line in lines] == [*METHODS]


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--method=easyep'], "unknown method 'easyep'; did you mean 'easy_ep'"),
    (['--keep=5'], 'keep=5 of 4 experts: keep 4 at most'),
    (['--keep=0'], 'keep=0: at least one expert'),
    (['--keep=1'], 'keep=1 is less than the 2 experts per layer that the'),
    (['--keep=two'], '--keep=two is not a whole number, or several with'),
    (['--keep=2,'], '--keep=2, is not a whole number, or several with'),
    (['--method=easy_ep,'], '--method=easy_ep, has a comma without a method'),
    (['--keep=2,3'], 'are several models; name one, or compare them with'),
    (['--method=easy_ep,random'], 'are several models'),
    (
      ['--domains=code.json'],
      "unknown domain 'code.json'; did you mean 'code.jsonl'",
    ),
    (['--domains=code.jsonl=-1'], "the weight of 'code.jsonl' is '-1'"),
    (['--step=11'], 'no checkpoint 11 in'),
    (['--files={}/none'], 'none'),
    (['--sweep'], '--to and --sweep are different products; give one'),
    (['--batches=1'], '--batches=1 is for --sweep; leave it out'),
    (['--batches=-1'], '--batches=-1 must be 0 or more'),
    (['--dtype=bfloat16'], '--dtype=bfloat16 is for --export'),
    (['--mask={}/m.json'], '--to and --mask are different products'),
    (['--to={}'], 'is a folder with files; name one that does not exist, or'),
    (['--to={}/code.jsonl'], 'is a file; name a folder'),
    (['--to={}/code.jsonl/a/b'], "code.jsonl' is a file, or lies below one"),
    (['--statistics={}/code.jsonl'], "code.jsonl' is a file, or lies below"),
  ],
)
def test_wrong_flags_are_one_line(
  workdir, texts, tmp_path, flags, words, capsys, monkeypatch
):
  wanted = {
    '--workdir': workdir,
    '--method': 'easy_ep',
    '--keep': 2,
    '--files': f'{texts}/*.jsonl',
    '--to': tmp_path / 'run',
  }
  # All is refused before anything is computed.
  monkeypatch.setattr(trained.Trained, 'weights', lambda *a: 1 / 0)
  for flag in flags:
    name, _, value = flag.partition('=')
    wanted[name] = value.format(texts)
  line = [f'{k}={v}' if v != '' else k for k, v in wanted.items()]
  err = refused(capsys, *line)
  assert words in err
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('missing', ['--workdir', '--method', '--keep', '--to'])
def test_a_flag_that_is_missing_is_named(workdir, missing, capsys):
  flags = {
    '--workdir': workdir,
    '--method': 'easy_ep',
    '--keep': 2,
    '--to': 'nowhere',
  }
  del flags[missing]
  line = [f'{name}={value}' for name, value in flags.items()]
  assert f'{missing} is missing' in refused(capsys, *line)


def test_an_empty_text_is_one_line(workdir, tmp_path, capsys):
  (tmp_path / 'empty.txt').write_text('')
  flags = ('--method=easy_ep', '--keep=2', f'--files={tmp_path}/empty.txt')
  err = refused(capsys, f'--workdir={workdir}', *flags, f'--to={tmp_path}/run')
  assert 'empty.txt' in err
  assert not (tmp_path / 'run').exists()


def test_statistics_of_another_checkpoint_or_text_are_one_line(
  workdir, pruned, texts, tmp_path, capsys
):
  statistics = f'--statistics={pruned}/statistics'
  flags = (f'--workdir={workdir}', '--keep=2', f'--to={tmp_path}/run')
  outputs = '--method=m_smoe_outputs'
  err = refused(capsys, *flags, statistics, outputs)
  assert "lack the experts' outputs" in err
  flags = (*flags, '--method=easy_ep')
  err = refused(capsys, *flags, statistics, '--step=10')
  assert 'are of another checkpoint' in err
  text = f'--files={texts}/*.jsonl'
  err = refused(capsys, *flags, statistics, text, '--documents=5')
  assert 'were collected with other documents' in err
  (tmp_path / 'statistics').mkdir()
  (tmp_path / 'statistics' / 'index.json').write_text('{}')
  err = refused(capsys, *flags, f'--statistics={tmp_path}/statistics')
  assert 'is not an index of statistics' in err


@pytest.mark.parametrize(
  ('router', 'fields'), [('expert_choice', {'not_causal': True}), ('hash', {})]
)
def test_a_router_without_a_choice_to_prune_is_one_line(
  router, fields, tmp_path, capsys
):
  moe = dataclasses.replace(
    MODEL.moe, router=ROUTERS[router](**fields), balance=()
  )
  config = dataclasses.replace(MODEL, moe=moe)
  folder = workdirs.make(tmp_path / 'run', config)
  flags = (f'--workdir={folder}', '--method=easy_ep', '--keep=2')
  err = refused(capsys, *flags, f'--to={tmp_path}/new')
  assert f'router {router} keeps all its experts' in err
