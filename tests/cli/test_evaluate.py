"""The commands evaluate and analyse: from a workdir to tables and JSON."""

import contextlib
import io
import json
import types

import jax
import numpy as np
import pytest
from helpers import programs, tiny

from moejax.cli import analyse, evaluate
from moejax.config import Run
from moejax.core import config_tree, exits, files
from moejax.data.config import DataConfig
from moejax.data.vocab import Bytes
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.moe.config import MoEConfig
from moejax.parallel import mesh as meshes
from moejax.train import checkpoint

MODEL = ModelConfig(
  vocab_size=259,
  max_length=64,
  num_layers=2,
  first_dense=1,
  width=16,
  num_heads=2,
  dense_width=16,
  moe=MoEConfig(num_experts=4, expert_width=8),
)


@pytest.fixture(scope='module', autouse=True)
def _programs(tmp_path_factory):
  """Every command compiles its programs anew, the same ones in many tests."""
  with programs.kept(tmp_path_factory.mktemp('compiled')):
    yield


def _workdir(folder, model_config):
  """A workdir with checkpoints of steps 10 and 20; the older is the better."""
  data = DataConfig(mixture='synthetic', vocab=Bytes(), sequence_length=16)
  run = Run(model=model_config, data=data)
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  model = build.build(run.model, mesh)
  files.atomic_write_json(folder / 'config.json', config_tree.to_dict(run))
  with checkpoint.Checkpointer(folder / 'checkpoints') as checkpoints:
    for step, loss in ((10, 2.0), (20, 3.0)):
      # As small as fresh weights.
      weights = tiny.draw(model.shapes, seed=step, std=0.02)
      checkpoints.save(step, {'weights': weights}, {'metric': loss})
  return str(folder)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return _workdir(tmp_path_factory.mktemp('run'), MODEL)


def _json(main, capsys, *flags):
  assert exits.call(main, [*flags, '--json']) == exits.DONE
  return json.loads(capsys.readouterr().out)


@pytest.fixture(scope='module')
def newest(workdir, tmp_path_factory):
  """What an evaluation of the newest checkpoint prints and writes."""
  path = tmp_path_factory.mktemp('scores') / 'scores.json'
  flags = [f'--workdir={workdir}', '--batches=1', f'--out={path}']
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    assert exits.call(evaluate.main, flags) == exits.DONE
  return types.SimpleNamespace(
    out=out.getvalue(),
    err=err.getvalue(),
    result=json.loads(path.read_text()),
  )


def test_evaluate_prints_a_row_for_each_validation_set(newest):
  assert newest.result['step'] == 20
  assert 'step 20' in newest.out
  assert 'Evaluating on synthetic (up to 1 batches' in newest.err
  (row,) = newest.result['evals']['perplexity'].values()
  # Fresh weights know next to nothing of 259 ids.
  assert row['loss'] == pytest.approx(np.log(259), rel=0.1)
  assert f'{row["loss"]:.3f}' in newest.out


def test_another_checkpoint_is_scored_if_asked_for(
  workdir, newest, capsys, tmp_path
):
  flags = [f'--workdir={workdir}', '--batches=1']
  out = tmp_path / 'scores.json'
  more = ['--step=best', f'--out={out}', '--evals=perplexity,samples']
  best = _json(evaluate.main, capsys, *flags, *more)
  assert best['step'] == 10
  assert list(best['evals']) == ['perplexity', 'samples']
  assert best['evals']['perplexity'] != newest.result['evals']['perplexity']
  assert json.loads(out.read_text()) == best


def test_analyse_measures_the_layers_that_have_experts(workdir, capsys):
  flags = [f'--workdir={workdir}', '--batches=1']
  assert exits.call(analyse.main, [*flags, '--json']) == exits.DONE
  out, noted = capsys.readouterr()
  result = json.loads(out)
  assert 'Evaluating on synthetic (up to 1 batches' in noted
  assert result['step'] == 20
  assert list(result['measures']) == ['top_experts', 'load']
  (layer,) = result['measures']['top_experts']
  assert layer == 'layer 1'
  (tops,) = result['measures']['top_experts'][layer].values()
  assert all(0 <= expert < 4 and 0 <= share <= 1 for expert, share in tops)
  assert exits.call(analyse.main, [*flags, '--measures=load']) == exits.DONE
  shown = capsys.readouterr().out
  assert 'unused' in shown
  assert 'top_experts' not in shown


@pytest.mark.parametrize(
  ('main', 'flag', 'words'),
  [
    (
      evaluate.main,
      '--evals=perplexty',
      "unknown evaluation 'perplexty'; did you mean 'perplexity'?",
    ),
    (
      analyse.main,
      '--measures=top_expert',
      "unknown measure 'top_expert'; did you mean 'top_experts'?",
    ),
    (evaluate.main, '--batches=-1', '--batches=-1 must be 0 or more'),
    (analyse.main, '--batches=-1', '--batches=-1 must be 0 or more'),
    (evaluate.main, '--out=/no/such/x.json', "there is no folder '/no/such'"),
    (analyse.main, '--out=/no/such/x.json', "there is no folder '/no/such'"),
    (
      evaluate.main,
      '--config.opt.peak_lr=1',
      '--config.opt.peak_lr=1 does not change',
    ),
    (analyse.main, '--step=11', 'no checkpoint 11 in'),
  ],
)
def test_wrong_flags_are_one_line(main, flag, words, workdir, capsys):
  assert exits.call(main, [f'--workdir={workdir}', flag]) == exits.BAD_INPUT
  out, err = capsys.readouterr()
  assert out == ''
  assert words in err


def test_rounded_weights_change_the_loss_a_little(workdir, capsys):
  losses = []
  for weights in ('full', 'int8'):
    flags = [f'--workdir={workdir}', '--batches=1', f'--weights={weights}']
    evaluate.main([*flags, '--json'])
    out, err = capsys.readouterr()
    assert ('weights in int8' in err) == (weights == 'int8')
    rows = json.loads(out)['evals']['perplexity']
    losses.append(next(iter(rows.values()))['loss'])
  full, rounded = losses
  assert 0 < abs(rounded - full) < 0.02 * full


def test_suites_are_of_full_weights(workdir, capsys):
  flags = [f'--workdir={workdir}', '--suite=offline', '--weights=int8']
  assert exits.call(evaluate.main, flags) == exits.BAD_INPUT
  assert 'leave out --weights=int8' in capsys.readouterr().err


def test_routing_without_experts_is_an_error(tmp_path, capsys):
  model = ModelConfig(
    vocab_size=259, max_length=64, num_layers=1, width=16, num_heads=2
  )
  folder = _workdir(tmp_path, model)
  flags = [f'--workdir={folder}', '--batches=1']
  assert exits.call(analyse.main, flags) == exits.BAD_INPUT
  assert 'no layer with experts' in capsys.readouterr().err
