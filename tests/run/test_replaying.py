"""A model with the routing of another: `replay` and `replay_gates`."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import programs, tiny, workdirs

from moejax.cli import intervene
from moejax.core import exits
from moejax.data.vocab import Ids
from moejax.evals import perplexity
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.moe.config import MoEConfig
from moejax.moe.routers import ROUTERS
from moejax.run import replaying

MODEL = ModelConfig(
  vocab_size=259,
  max_length=48,
  num_layers=3,
  first_dense=1,
  width=16,
  num_heads=2,
  dense_width=16,
  moe=MoEConfig(num_experts=4, expert_width=8, num_shared=1),
)


@pytest.fixture(scope='module', autouse=True)
def _programs(tmp_path_factory):
  with programs.kept(tmp_path_factory.mktemp('compiled')):
    yield


def make_workdir(folder, *, vocab=workdirs.BYTES, seed=0, **moe):
  config = dataclasses.replace(MODEL, moe=dataclasses.replace(MODEL.moe, **moe))
  return workdirs.make(folder, config, vocab=vocab, seed=seed)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Two runs of one model with other weights."""
  folder = tmp_path_factory.mktemp('place')
  make_workdir(folder / 'run')
  make_workdir(folder / 'other', seed=100)
  return folder


def call(place, *flags, workdir='run'):
  return exits.call(
    intervene.main, [f'--workdir={place / workdir}', '--batches=1', *flags]
  )


def scores(place, what, *values):
  """The loss by value, and None for the unchanged model."""
  flags = (f'--what={what}', f'--values={",".join(values)}')
  assert call(place, *flags) == exits.DONE
  path = place / 'run' / 'interventions' / f'{what}.json'
  rows = json.loads(path.read_text())['rows']
  return {row['value']: row['score'] for row in rows}


@pytest.mark.soak
def test_the_model_s_own_routing_changes_nothing_but_rounding(place):
  routes = scores(place, 'replay', '20', '10', f'{place}/other')
  gates = scores(place, 'replay_gates', '20', '10')
  for loss in (routes, gates):
    assert loss['20'] == pytest.approx(loss[None], rel=1e-6)
  others = [routes[None], routes['10'], routes[f'{place}/other@20']]
  others.append(gates['10'])
  assert np.diff(sorted(others)).min() > 1e-4


@pytest.mark.soak
@pytest.mark.parametrize('gates', [False, True])
def test_a_replayed_pass_has_the_loads_of_the_other_model(gates):
  model = build.build(MODEL, tiny.mesh())
  own, other = (tiny.weights(model, seed) for seed in (1, 2))
  batch = tiny.batch([[12], [5, 7]], vocab_size=MODEL.vocab_size)
  source = replaying.Source(model, other)
  replayed = perplexity.make_step(
    model, replaying.outputs(model, source, gates=gates)
  )
  plain = perplexity.make_step(model)
  load = lambda step, weights: np.asarray(
    jax.device_get(step(weights, batch))['count_NE'].total
  )
  both = {'own': own, 'source': other}
  np.testing.assert_array_equal(load(replayed, both), load(plain, other))
  assert (load(plain, own) != load(plain, other)).any()


def test_values_name_checkpoints_and_workdirs(place):
  own = str(place / 'run')
  resolve = lambda value: replaying.resolve(value, own, print)
  assert resolve('best') == '20'
  assert resolve('10') == '10'
  assert resolve(f'{place}/other') == f'{place}/other@20'
  assert resolve(f'{place}/other@10') == f'{place}/other@10'


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--values=11'], '--values=11'),
    (['--values=/no/such/run'], '/no/such/run'),
    ([], '--what=replay needs --values: a step, a workdir'),
    (['--values=10', '--layers=1'], 'leave out --layers'),
    (['--values=10', '--suite=libmoe'], 'leave out --suite'),
  ],
)
def test_wrong_values_are_one_line(place, flags, words, capsys):
  assert call(place, '--what=replay', *flags) == exits.BAD_INPUT
  out, err = capsys.readouterr()
  assert out == ''
  assert words in err


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'num_experts': 6}, 'has 6 experts, but'),
    ({'router': ROUTERS['top_k'](k=1)}, 'has 1 experts per token, but'),
    ({'vocab': Ids(size=259)}, 'has another tokenizer than'),
  ],
)
def test_a_model_of_another_kind_is_one_line(
  place, tmp_path, changes, words, capsys
):
  other = make_workdir(tmp_path / 'other', **changes)
  flags = ('--what=replay', f'--values={other}')
  assert call(place, *flags) == exits.BAD_INPUT
  assert words in capsys.readouterr().err


def test_a_router_that_cannot_weigh_the_experts_of_another_is_one_line(
  tmp_path, capsys
):
  make_workdir(tmp_path / 'run', router=ROUTERS['sparse_mixer']())
  assert call(tmp_path, '--what=replay', '--values=10') == exits.BAD_INPUT
  assert 'the router sparse_mixer cannot be changed' in capsys.readouterr().err
