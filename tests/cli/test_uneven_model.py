"""A model whose layers have different numbers of experts, in every command."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import tiny

from moejax import main
from moejax.analysis import trace_file
from moejax.cli import convert, evaluate, generate, trace
from moejax.config import Run
from moejax.core import config_tree, exits, files, log, trees
from moejax.data.config import DataConfig
from moejax.data.vocab import Bytes
from moejax.model import build
from moejax.run import new_workdir, restore

pytestmark = pytest.mark.soak

MODEL = tiny.model_config(
  vocab_size=259, max_length=48, moe={'experts_by_layer': (4, 3)}
)
ONLY_IN_ONE_LAYER = 3


def weights_of(workdir):
  model = build.build(restore.run_of(str(workdir)).model, tiny.mesh())
  tree, step = restore.weights(model, str(workdir), lambda _: None)
  return trees.leaves(jax.device_get(tree)), step


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  folder = new_workdir.make(str(tmp_path_factory.mktemp('place') / 'run'))
  data = DataConfig(mixture='synthetic', vocab=Bytes(), sequence_length=16)
  weights = tiny.draw(build.build(MODEL, tiny.mesh()).shapes)
  new_workdir.save(folder, weights, {}, lambda _: None)
  new_workdir.finish(folder, Run(model=MODEL, data=data))
  return folder


def loss_of(workdir, capsys):
  flags = [f'--workdir={workdir}', '--json', '--batches=1']
  assert exits.call(evaluate.main, flags) == exits.DONE
  scores = json.loads(capsys.readouterr().out)['evals']['perplexity']
  return scores['synthetic']['loss']


def test_weights_of_an_expert_that_is_not_there_do_not_count(
  workdir, tmp_path, capsys
):
  """Another model has huge numbers in its place, and the same loss."""
  run = restore.run_of(str(workdir))
  model = build.build(run.model, tiny.mesh())
  weights, _ = restore.weights(model, str(workdir), lambda _: None)
  weights = jax.tree.map(np.array, weights)
  ffn = weights['moe']['ffn']
  ffn['routed']['w_out_EFD'][1, ONLY_IN_ONE_LAYER] = 1e6
  ffn['router']['w_DE'][1, :, ONLY_IN_ONE_LAYER] = 1e6
  other = new_workdir.make(str(tmp_path / 'other'))
  new_workdir.save(other, weights, {}, lambda _: None)
  new_workdir.finish(other, run)
  assert loss_of(other, capsys) == loss_of(workdir, capsys)
  full = dataclasses.replace(MODEL.moe, experts_by_layer=())
  run = dataclasses.replace(run, model=dataclasses.replace(MODEL, moe=full))
  files.atomic_write_json(other / 'config.json', config_tree.to_dict(run))
  assert loss_of(other, capsys) != loss_of(workdir, capsys)


def test_it_generates(workdir, capsys):
  flags = [f'--workdir={workdir}', '--prompt=ab', '--max_new_tokens=4']
  assert exits.call(generate.main, flags) == exits.DONE
  assert 'ab' in capsys.readouterr().out


def test_its_traces_have_no_token_at_an_expert_that_is_not_there(
  workdir, tmp_path
):
  flags = [f'--workdir={workdir}', f'--out={tmp_path}', '--tokens=64']
  assert exits.call(trace.main, flags) == exits.DONE
  (file,) = tmp_path.glob('*.parquet')
  traced = trace_file.TraceFile(file).read()
  has_N = (traced.expert_TNK == ONLY_IN_ONE_LAYER).any(axis=(0, 2))
  np.testing.assert_array_equal(has_N, [True, False])
  assert traced.in_use == ((0, 1, 2, 3), (0, 1, 2))


def test_it_trains_on_and_is_saved(workdir, tmp_path):
  flags = [
    f'--config=configs/hf/continue.py:{workdir}',
    f'--workdir={tmp_path}/more',
    '--config.data.mixture=synthetic',
    '--config.data.sequence_length=16',
    '--config.train.steps=2',
    '--config.train.load_every=1',
    '--config.train.eval_batches=1',
    '--config.report.eval_batches=1',
    '--config.report.samples=false',
    '--config.opt.schedule.warmup=1',
    '--config.opt.weight_decay=0',
  ]
  assert exits.call(main.main, flags) == exits.DONE
  new, step = weights_of(tmp_path / 'more')
  assert step == 2
  # The load of an expert that is not there is no number.
  first, *_ = log.read(tmp_path / 'more' / 'metrics.jsonl')
  np.testing.assert_array_equal(
    np.isnan(first['moe/load']), [[0, 0, 0, 0], [0, 0, 0, 1]]
  )
  assert restore.run_of(str(tmp_path / 'more')).model.moe == MODEL.moe
  old, _ = weights_of(workdir)
  path = 'moe/ffn/routed/w_in_ED2F'
  change_NE = np.abs(old[path] - new[path]).max(axis=(2, 3, 4)) > 0
  np.testing.assert_array_equal(change_NE, [[1, 1, 1, 1], [1, 1, 1, 0]])


def test_it_is_not_exported_where_the_router_has_no_bias(
  workdir, tmp_path, capsys
):
  flags = ['export', f'--workdir={workdir}', f'--to={tmp_path}/out']
  assert exits.call(convert.main, flags) == exits.BAD_INPUT
  out, err = capsys.readouterr()
  assert 'experts_by_layer=(4, 3)' in err
  assert 'keep the same number in every layer' in err
