"""Estimates by arithmetic alone, against plans and states that were made."""

import dataclasses
import functools
import math
import pathlib

import pytest
from helpers import hf

from moejax import config
from moejax.core import trees
from moejax.model import build
from moejax.model import remat as remats
from moejax.model.pipeline import Pipeline
from moejax.parallel import mesh as meshes
from moejax.plan import count, rough
from moejax.plan.chips import CHIPS
from moejax.train import optimizer
from moejax.train import state as states

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
  mesh = dict.fromkeys(meshes.AXES, 1) | sizes
  return rough.of(run, mesh, V5P, counted)


def _compiled(section, row):
  """GiB and seconds of a step that docs/plans.md has of a compiled plan."""
  text = (CONFIGS.parent / 'docs' / 'plans.md').read_text()
  _, heading, after = text.partition(f'\n## {section}')
  assert heading, section
  lines = [
    [cell.strip(' *') for cell in line.strip('|\n').split('|')]
    for line in after.partition('\n## ')[0].splitlines()
    if line.startswith('|')
  ]
  header = next(cells for cells in lines if 'GiB' in cells)
  (cells,) = (cells for cells in lines if row in cells)
  column = dict(zip(header, cells, strict=True))
  return float(column['GiB']), float(column['step s'])


# (config, its section in docs/plans.md), the row there, and what it stands for.
B16 = 'ds_16b', 'DeepSeekMoE 16B on'
B145 = 'ds_145b', 'DeepSeekMoE 145B on'
V3 = 'deepseek_v3', 'DeepSeek-V3 on'
# The programs that the constants of plan/rough.py were set by.
SET_BY = [
  (B16, 'whole experts, collectives on SparseCores (jax 0.12.0.1, libtpu '
   '0.0.52)', {'data': 2, 'fsdp': 32, 'chunks': 9}),
  (B145, 'the same, whole experts, collectives on SparseCores',
   {'data': 4, 'fsdp': 128}),
  (V3, 'data=4 fsdp=256 model=2 (the config)',
   {'data': 4, 'fsdp': 256, 'model': 2}),
  (V3, 'latent attention without copies of heads',
   {'data': 4, 'fsdp': 256, 'model': 4}),
]  # fmt: skip


@pytest.mark.parametrize(('model', 'row', 'setting'), SET_BY)
def test_estimates_are_near_what_the_compiler_said(model, row, setting):
  name, section = model
  gib, seconds = _compiled(section, row)
  estimate = _rough(name, **setting)
  assert estimate.num_bytes / GIB == pytest.approx(gib, rel=0.1)
  assert estimate.seconds == pytest.approx(seconds, rel=0.2)


def test_a_device_has_its_share_of_the_state_of_training():
  """Counted from the arrays of a real training state, and its gradients."""
  run, _ = _counted('ds_16b')
  model = build.build(run.model, hf.one_device())
  transform = optimizer.make(run.opt, run.train.steps, model.decays)
  state = states.abstract(model, transform)
  num_bytes = trees.num_bytes((state.weights, state.opt_state))
  num_bytes += trees.num_bytes(state.weights)
  # The same rows on each device, and so nothing else that differs.
  few, many = _rough('ds_16b', data=2, fsdp=32), _rough('ds_16b', fsdp=64)
  saved = num_bytes * (1 / 32 - 1 / 64)
  assert few.num_bytes - many.num_bytes == pytest.approx(saved, rel=1e-3)


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
  gathered = _rough('ds_16b', data=8, fsdp=8, chunks=9)
  split = _rough('ds_16b', data=2, fsdp=8, expert=4, chunks=9)
  assert split.num_bytes < gathered.num_bytes
  assert split.seconds > gathered.seconds


def test_every_policy_that_is_tried_is_one():
  assert set(rough.KEPT) <= set(remats.POLICIES)


def test_a_context_axis_splits_tokens_and_gathers_keys():
  """16B: 16 heads of 128, keys and values; 32 rows of 4,096 tokens on 64."""
  rows = _rough('ds_16b', data=2, fsdp=32, micro=36)
  pieces = _rough('ds_16b', data=1, fsdp=32, context=2, micro=36)
  run, _ = _counted('ds_16b')
  tokens = run.train.batch_size / 36 / 32 * run.data.sequence_length
  assert pieces.num_bytes - rows.num_bytes == pytest.approx(
    tokens * 16 * 2 * 128 * 6
  )


def test_stages_share_the_layers_and_pay_for_the_bubble():
  """Four stages, eight microbatches: 11 iterations for the work of 8.

  On chips whose memory and network take no time. A stage has a quarter of what
  is neither embedding nor head.
  """
  run, counted = _counted('ds_16b')
  changes = {'remat': 'full', 'pipeline': Pipeline(1, 8)}
  model = dataclasses.replace(run.model, **changes)
  run = dataclasses.replace(run, model=model)
  chip = dataclasses.replace(
    V5P, hbm_bandwidth=math.inf, ici_bandwidth=math.inf
  )
  rows, stages = (
    rough.of(run, dict.fromkeys(meshes.AXES, 1) | sizes, chip, counted)
    for sizes in ({'data': 4}, {'stage': 4})
  )
  assert stages.seconds / rows.seconds == pytest.approx(11 / 8)
  total_of = counted.total_of
  layers = counted.total - total_of['embedding'] - total_of['head']
  run = dataclasses.replace(
    run, train=dataclasses.replace(run.train, batch_size=8)
  )
  rows, stages = (
    rough.of(run, dict.fromkeys(meshes.AXES, 1) | sizes, chip, counted)
    for sizes in ({'data': 4}, {'stage': 4})
  )
  # Parameters and two moments in float32, and gradients.
  assert rows.num_bytes - stages.num_bytes == pytest.approx(
    16 * layers * 3 / 4, rel=0.02
  )
