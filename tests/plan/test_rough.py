"""Estimates by arithmetic alone, against the plans that were compiled."""

import dataclasses
import functools
import pathlib

import pytest

from moejax import config
from moejax.model import remat as remats
from moejax.plan import count, rough
from moejax.plan.chips import CHIPS

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
V5P = CHIPS['v5p']
GIB = 2**30


@functools.cache
def _counted(name):
  run = config.load(f'{CONFIGS / name}.py')
  return run, count.count(run.model)


def _rough(name, micro=1, chunks=1, remat='full', **sizes):
  run, counted = _counted(name)
  run = dataclasses.replace(
    run,
    model=dataclasses.replace(run.model, remat=remat, token_chunks=chunks),
    train=dataclasses.replace(run.train, micro_batches=micro),
  )
  mesh = {'data': 1, 'fsdp': 1, 'expert': 1, 'model': 1, **sizes}
  return rough.of(run, mesh, V5P, counted)


@pytest.mark.parametrize(
  ('name', 'setting', 'compiled'),
  # docs/plans.md: GiB on a chip.
  [
    ('ds_16b', {'data': 2, 'fsdp': 32, 'micro': 18}, 27.9),
    ('ds_16b', {'fsdp': 64}, 129.7),
    ('ds_16b', {'data': 2, 'fsdp': 32, 'chunks': 18}, 91.2),
    ('ds_16b', {'data': 2, 'fsdp': 32, 'chunks': 9}, 92.3),
    ('ds_145b', {'data': 8, 'fsdp': 64, 'chunks': 9}, 106.0),
    ('ds_145b', {'data': 4, 'fsdp': 128, 'chunks': 3}, 89.7),
    ('deepseek_v3', {'fsdp': 512, 'model': 4, 'data': 2, 'chunks': 5}, 124.5),
    ('deepseek_v3', {'fsdp': 512, 'model': 4, 'data': 2, 'chunks': 15}, 120.2),
    (
      'deepseek_v3',
      {'fsdp': 512, 'model': 4, 'data': 2, 'chunks': 5, 'micro': 3},
      76.3,
    ),
  ],
)
def test_memory_is_within_a_tenth_of_the_compiled(name, setting, compiled):
  assert _rough(name, **setting).num_bytes / GIB == pytest.approx(
    compiled, rel=0.1
  )


@pytest.mark.parametrize(
  ('name', 'setting', 'compiled'),
  # docs/plans.md: seconds, of the programs that the constants are from.
  [
    ('ds_16b', {'data': 2, 'fsdp': 32, 'micro': 18}, 43),
    ('ds_16b', {'data': 2, 'fsdp': 32, 'chunks': 18}, 31.8),
    ('ds_16b', {'data': 2, 'fsdp': 32, 'chunks': 9}, 28.8),
    ('ds_145b', {'data': 4, 'fsdp': 128, 'chunks': 3}, 30.9),
  ],
)
def test_seconds_are_within_a_tenth_of_the_compilers(name, setting, compiled):
  assert _rough(name, **setting).seconds == pytest.approx(compiled, rel=0.1)


def test_micro_batches_cost_a_pass_more_than_none():
  """Chunks save the same room for less."""
  one, micro, chunks = (
    _rough('ds_16b', data=2, fsdp=32, **more)
    for more in ({}, {'micro': 9}, {'chunks': 9})
  )
  assert micro.num_bytes < chunks.num_bytes < one.num_bytes
  assert one.seconds < chunks.seconds < micro.seconds
  # 4 passes with all computed again, and one more before them.
  assert micro.seconds > one.seconds * 5 / 4


def test_a_dense_model_has_no_further_pass():
  run, _ = _counted('ds_16b')
  moe = dataclasses.replace(run.model.moe, num_experts=0)
  dense = dataclasses.replace(run.model, moe=moe)
  for model, number in ((run.model, 5), (dense, 4)):
    micro = dataclasses.replace(
      run,
      model=model,
      train=dataclasses.replace(run.train, micro_batches=2),
    )
    assert rough.passes(micro, count.count(model), 1) == number


def test_what_is_kept_is_not_computed_again():
  none, matmuls, full = (
    _rough('ds_16b', data=2, fsdp=32, remat=remat)
    for remat in ('none', 'matmuls', 'full')
  )
  assert none.seconds < matmuls.seconds < full.seconds
  assert none.num_bytes > matmuls.num_bytes > full.num_bytes


def test_a_chunk_keeps_nothing_whatever_the_policy():
  run, counted = _counted('ds_16b')
  plain = dataclasses.replace(
    run, model=dataclasses.replace(run.model, remat='none')
  )
  assert rough.passes(plain, counted, 1) == 3
  # The feed-forwards are most of the model, but not all.
  assert 3.5 < rough.passes(plain, counted, 2) < 4


def test_split_experts_are_less_state_and_their_rows_travel():
  gathered = _rough('ds_16b', data=2, fsdp=32, chunks=9)
  split = _rough('ds_16b', data=2, fsdp=8, expert=4, chunks=9)
  assert split.num_bytes < gathered.num_bytes
  assert split.seconds > gathered.seconds


def test_every_policy_that_is_tried_is_one():
  assert set(rough.KEPT) <= set(remats.POLICIES)
