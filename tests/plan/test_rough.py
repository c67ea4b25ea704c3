"""Estimates by arithmetic alone, against plans and states that were made."""

import dataclasses
import functools
import pathlib

import pytest
from helpers import hf

from moejax import config
from moejax.core import trees
from moejax.model import build
from moejax.model import remat as remats
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
  mesh = {'data': 1, 'fsdp': 1, 'expert': 1, 'context': 1, 'model': 1, **sizes}
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
  seconds = column.get('step s')
  return float(column['GiB']), float(seconds) if seconds else None


# (config, its section in docs/plans.md), the row there, and what it stands for.
B16 = 'ds_16b', 'DeepSeekMoE 16B on'
B145 = 'ds_145b', 'DeepSeekMoE 145B on'
V3 = 'deepseek_v3', 'DeepSeek-V3 on'
TWO, FOUR = {'data': 2, 'fsdp': 32}, {'data': 4, 'fsdp': 128}
WIDE = {'data': 2, 'fsdp': 512, 'model': 4}
# The programs that the constants of plan/rough.py were set by.
SET_BY = [
  (B16, 'attention as a kernel, data=2 fsdp=32, 18 micro-batches',
   {**TWO, 'micro': 18}),
  (B16, 'fsdp=64, 1 micro-batch', {'fsdp': 64}),
  (B16, '`token_chunks=18`, experts with a gradient of their own',
   {**TWO, 'chunks': 18}),
  (B16, '`token_chunks=9`, gate and up apart', {**TWO, 'chunks': 9}),
  (B145, 'data=8 fsdp=64, `token_chunks=9`',
   {'data': 8, 'fsdp': 64, 'chunks': 9}),
  (B145, 'the same, experts with a gradient of their own, gate and up apart',
   {**FOUR, 'chunks': 3}),
  (V3, 'data=2 fsdp=512 model=4, `token_chunks=5`', {**WIDE, 'chunks': 5}),
  (V3, 'the same, `token_chunks=15`', {**WIDE, 'chunks': 15}),
  (V3, 'the same, `token_chunks=5` and 3 micro-batches',
   {**WIDE, 'chunks': 5, 'micro': 3}),
]  # fmt: skip
# Of these two the compiler's seconds are of slower programs.
SLOWER = 'fsdp=64, 1 micro-batch', 'data=8 fsdp=64, `token_chunks=9`'
# Programs that were made faster since: the constants know nothing of them.
LATER = [
  (B16, "rotary positions by a matrix, experts' gradients by reduce-scatter",
   {**TWO, 'chunks': 9}),
  (B145, 'the same, products finished in kernels, and the rest of the 16B\'s '
   'line 9', {**FOUR, 'chunks': 3}),
  (B145, 'the same, `token_chunks=1`, gate and up parted before they are '
   'gathered', {**FOUR, 'chunks': 1}),
  (V3, 'the same, `token_chunks=1` (the config)',
   {**WIDE, 'chunks': 1, 'micro': 3}),
  (V3, 'fsdp=128 expert=8 model=4, `all_to_all` (drop, factor 1.25), '
   '`token_chunks=1`',
   {'fsdp': 128, 'expert': 8, 'model': 4, 'chunks': 1, 'micro': 3}),
]  # fmt: skip


@pytest.mark.parametrize(
  ('model', 'row', 'setting', 'apart'),
  [(*case, 0.1) for case in SET_BY] + [(*case, 1 / 3) for case in LATER],
)
def test_estimates_are_near_what_the_compiler_said(model, row, setting, apart):
  name, section = model
  gib, seconds = _compiled(section, row)
  estimate = _rough(name, **setting)
  assert estimate.num_bytes / GIB == pytest.approx(gib, rel=apart)
  if seconds is not None and row not in SLOWER:
    assert estimate.seconds == pytest.approx(seconds, rel=apart)


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
  gathered = _rough('ds_16b', data=2, fsdp=32, chunks=9)
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
