"""The ranges of searches and random draws, all of their table."""

import math
import random

import pytest

from moejax.core import errors
from moejax.sweep import grid, space

MADE = {
  'uniform': space.Uniform(0.1, 0.7),
  'log_uniform': space.LogUniform(1e-4, 0.3),
  'integers': space.Integers(-2, 5),
  'choice': space.Choice([0.5, 'a', (1, 2)]),
}


def test_every_range_is_tested():
  assert {*MADE} == {*space.RANGES}
  for name, made in MADE.items():
    assert type(made) is space.RANGES[name]


@pytest.mark.parametrize('name', sorted(MADE))
def test_draws_are_between_the_ends_and_come_to_both(name):
  values, rng = MADE[name], random.Random(0)
  drawn = [values.draw(rng) for _ in range(2000)]
  again = random.Random(0)
  assert drawn == [values.draw(again) for _ in range(2000)]
  ends = values.ends()
  if name == 'choice':
    assert {*drawn} == {*ends} == {'0.5', 'a', '1,2'}
    return
  low, high = map(float, ends)
  numbers = [float(text) for text in drawn]
  near = (high - low) / 50
  assert low <= min(numbers) <= low + near
  assert high - near <= max(numbers) <= high
  if name == 'integers':
    assert {*numbers} == {*range(-2, 6)}


def test_half_of_the_draws_are_below_the_middle_of_their_scale():
  rng = random.Random(1)
  for name, middle in (
    ('uniform', 0.4),
    ('log_uniform', math.sqrt(1e-4 * 0.3)),
  ):
    below = sum(float(MADE[name].draw(rng)) < middle for _ in range(4000))
    # Four standard deviations of a fair coin: sqrt(4000) / 2 is 32.
    assert abs(below - 2000) < 4 * 32


def test_texts_have_six_digits_and_stay_within_the_ends():
  assert space.Uniform(0, 1).text(1 / 3) == '0.333333'
  # Rounded it would be 0.123457, above the end.
  tight = space.Uniform(0.1, 0.12345651)
  assert float(tight.text(0.12345651)) <= 0.12345651


def test_zipped_takes_the_values_side_by_side():
  runs = grid.zipped(
    grid.run('a.py') + grid.run('b.py'),
    {'model.width': [64, 128], 'opt.peak_lr': [0.003, 0.001]},
  )
  assert [run.name for run in runs] == [
    'a-width=64-peak_lr=0.003',
    'a-width=128-peak_lr=0.001',
    'b-width=64-peak_lr=0.003',
    'b-width=128-peak_lr=0.001',
  ]
  assert runs[3].overrides == {
    'seed': '0',
    'model.width': '128',
    'opt.peak_lr': '0.001',
  }
  with pytest.raises(errors.InputError, match='2 of a.b, 1 of c.d'):
    grid.zipped(runs, {'a.b': [1, 2], 'c.d': [3]})


def test_sampled_runs_share_their_draws():
  runs = grid.run('a.py') + grid.run('b.py')
  ranges = {'opt.peak_lr': MADE['log_uniform'], 'x.y': MADE['choice']}
  sampled = grid.sample(runs, ranges, 3, seed=4)
  assert [run.name for run in sampled] == [
    f'{name}-draw={i}' for name in 'ab' for i in range(3)
  ]
  assert [run.group for run in sampled] == [run.name for run in sampled]
  first, second = sampled[:3], sampled[3:]
  assert [r.overrides for r in first] == [r.overrides for r in second]
  assert len({r.overrides['opt.peak_lr'] for r in first}) == 3
  assert sampled == grid.sample(runs, ranges, 3, seed=4)
  assert sampled != grid.sample(runs, ranges, 3, seed=5)
  with pytest.raises(errors.InputError, match='the space is empty'):
    grid.sample(runs, {}, 3)
