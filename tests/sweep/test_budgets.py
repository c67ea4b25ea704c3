"""Runs of equal FLOPs: their steps, and what cannot be made equal."""

import pytest

from moejax import config
from moejax.core import errors
from moejax.plan import count
from moejax.sweep import budgets, grid
from moejax.sweep.comparison import Comparison

TINY = 'tiny:tiny'


def runs_of(**changes):
  """A run for each of the names, with its overrides."""
  made = []
  for name, overrides in changes.items():
    made += grid.run(TINY, overrides, name=name)
  return made


def steps(runs):
  return {run.name: int(run.overrides['train.steps']) for run in runs}


BASE = {'train.steps': 60}


def test_a_step_that_costs_twice_as_much_is_taken_half_as_often():
  runs = runs_of(
    base=BASE,
    rows={'train.batch_size': 32},
    more_rows={'train.batch_size': 64, 'train.steps': 7},
  )
  rows = config.load(TINY).train.batch_size
  equal = budgets.equal_flops(runs)
  assert steps(equal) == {
    'base': 60,
    'rows': round(60 * rows / 32),
    'more_rows': round(60 * rows / 64),
  }
  # All else stays, and the sweep file's place of a value is known.
  assert equal[2].overrides['train.batch_size'] == '64'
  assert 'test_budgets.py' in equal[2].places['train.steps']


def flops(run):
  """Of the whole training of a run without images."""
  loaded = config.load(run.config, [*run.overrides.items()])
  length = loaded.data.sequence_length
  rows = loaded.train.steps * loaded.train.batch_size
  return rows * count.count(loaded.model).flops(length)


def test_other_models_have_the_flops_of_the_one_that_is_named():
  runs = runs_of(
    base=BASE,
    more_experts={'model.moe.router.k': 4},
    deep={'model.num_layers': 9, 'train.steps': 500},
    long={'data.sequence_length': 128, 'model.max_length': 128},
  )
  for of in (None, 'deep'):
    equal = budgets.equal_flops(grid.seeds(runs, 2), of)
    assert len({*map(flops, equal[:4])}) > 1  # whole steps
    wanted = flops(
      dict(zip(steps(equal), equal, strict=True))[f'{of or "base"}-seed=0']
    )
    for run in equal:
      of_a_step = flops(run) / int(run.overrides['train.steps'])
      assert abs(flops(run) - wanted) <= of_a_step / 2, run.name
    assert steps(equal)['deep-seed=1'] == steps(equal)['deep-seed=0']
    assert [run.overrides['seed'] for run in equal] == 4 * ['0'] + 4 * ['1']
  assert steps(equal)['deep-seed=0'] == 500


def test_the_table_says_that_they_are_equal():
  equal = budgets.equal_flops(runs_of(base=BASE, k={'model.moe.router.k': 4}))
  results = [
    {
      'name': run.name,
      'group': run.group,
      'seed': 0,
      'status': 'finished',
      'loss': 1.0,
      'flops': flops(run),
    }
    for run in equal
  ]
  (said,) = Comparison(results, 'loss').sentences()[:1]
  assert said.startswith('All finished runs have equal budgets: ')


@pytest.mark.parametrize(
  ('changes', 'of', 'line'),
  [
    ({'base': BASE}, 'bass', "unknown run in sweep.equal_flops 'bass'"),
    (
      {'base': {'train.steps': 1}, 'big': {'train.batch_size': 4096}},
      None,
      "a step of 'big' costs",
    ),
    (  # half a step
      {
        'base': {'train.steps': 1, 'train.batch_size': 8},
        'twice': {'train.batch_size': 16},
      },
      None,
      "a step of 'twice' costs",
    ),
    ({'base': {'train.stpes': 1}}, None, "did you mean 'train.steps'"),
    ({'base': BASE, 'bad': {'train.batch_size': 0}}, None, "run 'bad': train."),
  ],
)
def test_what_cannot_be_equal_is_one_line(changes, of, line):
  with pytest.raises(errors.InputError) as error:
    budgets.equal_flops(runs_of(**changes), of)
  assert line in str(error.value)
  assert '\n' not in str(error.value)
