"""Values that a new run would ignore, or that are surely a slip: refused."""

import pathlib

import pytest

from moejax import config
from moejax.config import kept_tokenizer
from moejax.core import errors

ROOT = pathlib.Path(__file__).parents[2]
TINY = f'{ROOT}/configs/tiny.py:tiny'
HELD_OUT = 'validation_files=/b.txt', 'validation_fraction=0.1'
BALANCE = 'model.moe.balance'
CASES = {
  'tasks without a suite': (
    ['evals.tasks=piqa'],
    'evals.tasks=piqa are not asked without a suite: set evals.suite',
  ),
  'falling milestones': (
    ['opt.schedule=steps', 'opt.schedule.milestones=0.9,0.5,0.9'],
    'opt.schedule.milestones=0.9,0.5,0.9 are shares of the run and must rise '
    'from each to the next: set 0.5,0.9',
  ),
  'windows of layers that are not there': (
    ['model.windows=8,0,4'],
    'model.windows has 3 numbers for model.num_layers=2: set model.windows=8,0',
  ),
  'a mixture beside files': (
    ['data.files=/a.txt', 'data.mixture=minipile'],
    'data.mixture=minipile has no effect, since data.files takes its place',
  ),
  'a mixture beside sources': (
    ['data.sources.a.files=/a.txt', 'data.mixture=synthetic'],
    'data.mixture=synthetic has no effect, since data.sources takes its place',
  ),
  'a share beside files that are held out': (
    ['data.files=/a.txt', *(f'data.{flag}' for flag in HELD_OUT)],
    'data.validation_fraction=0.1 holds out no share beside '
    'data.validation_files',
  ),
  'a share beside held-out files of a source': (
    [f'data.sources.a.{flag}' for flag in ('files=/a.txt', *HELD_OUT)],
    'data.sources.a.validation_fraction=0.1 holds out no share',
  ),
  'a bias of other scores': (
    [f'{BALANCE}.quantile=on'],
    f'{BALANCE}.quantile.score=sigmoid balances other scores than those by '
    f'which the router chooses: set {BALANCE}.quantile.score=softmax',
  ),
  'a bias of scores, of a router by logits': (
    [
      'model.moe.router.after=true',
      f'{BALANCE}.quantile.score=softmax',
    ],
    f'set {BALANCE}.quantile.score=logits',
  ),
  'a bias of a router without scores': (
    ['model.moe.router=hash', f'{BALANCE}.loss_free=on'],
    f'{BALANCE}.loss_free moves a selection bias, by which router=hash sends '
    'no expert more tokens',
  ),
}


@pytest.mark.parametrize('case', CASES)
def test_a_new_run_is_refused_and_one_that_has_begun_goes_on(case, tmp_path):
  flags, words = CASES[case]
  pairs = [tuple(flag.split('=', 1)) for flag in flags]
  for workdir in ('', str(tmp_path)):
    with pytest.raises(errors.InputError) as caught:
      config.load(TINY, pairs, workdir)
    assert str(caught.value).startswith(words) or words in str(caught.value)
  # Earlier versions have begun such runs.
  (tmp_path / kept_tokenizer.CHECKPOINTS / '00000010').mkdir(parents=True)
  config.load(TINY, pairs, str(tmp_path))


def test_each_of_these_values_is_taken_where_it_has_an_effect():
  for flags in (
    ['opt.schedule=steps', 'opt.schedule.milestones=0.5,0.9'],
    ['model.windows=8,0'],
    ['model.windows=8,0,4', 'model.num_layers=3'],
    ['data.mixture=synthetic'],
    ['data.files=/a.txt', 'data.validation_files=/b.txt'],
    ['data.files=/a.txt', 'data.validation_fraction=0.1'],
    ['model.moe.router.score=sigmoid', f'{BALANCE}.quantile=on'],
    [f'{BALANCE}.loss_free=on'],
    ['model.moe.router=hash'],
  ):
    config.load(TINY, [tuple(flag.split('=', 1)) for flag in flags])


def test_a_shrunk_model_has_windows_of_its_own_layers_alone():
  flags = [('model.windows', '8,0,4,2')]
  full = config.load(f'{ROOT}/configs/tiny.py', flags)
  assert full.model.windows == (8, 0, 4, 2)
  shrunk = config.shrink(full).model
  assert shrunk.windows == (8, 0, 4, 2)[: shrunk.num_layers]


def test_a_run_has_no_more_steps_than_any_run_could_take():
  with pytest.raises(errors.InputError, match='from 1 to 1000000000$'):
    config.load(TINY, [('train.steps', str(10**9 + 1))])
  config.load(TINY, [('train.steps', str(10**9))])
