"""Routed experts compiled for NVIDIA GPUs, forward and backward, without one.

`make test-gpu-plan` installs JAX's plug-in for CUDA (400 MB, Linux) and runs
them, without NVIDIA's libraries and without a driver; nothing is executed. One
process of its own compiles all cases, because this one's JAX has been told to
be a CPU; it takes two minutes.
"""

import pytest
from helpers import ahead_of_time

from moejax.moe.compute import implementations
from moejax.moe.expert_parallel import EXPERT_PARALLEL

pytestmark = pytest.mark.gpu_plan

AUTO = implementations.AUTO['gpu'][-1]  # for groups of any size
# Rows, depth, width, experts. Nothing in the first is a multiple of a tile.
ODD, TINY = (1000, 200, 136, 8), (1500, 16, 8, 8)
# Rows times depth are 4.2 MB in bfloat16.
MANY = {experts: (4096, 512, 256, experts) for experts in (4, 64)}
BF16, FLOAT32 = ('bfloat16', 'bfloat16'), ('float32', 'float32')
MIXED = ('bfloat16', 'float32')
COLLECTIVES = {
  'all_to_all': {'all-to-all'},
  'gather_experts': {'all-gather'},
  'ragged_all_to_all': {'ragged-all-to-all'},
  'all_gather': {'all-gather'},
}


def _matmul(name, shape, dtypes, devices=1, split=False):
  return {
    'name': name,
    'shape': shape,
    'dtypes': dtypes,
    'devices': devices,
    'split': split,
  }


CASES = {
  **{
    '/'.join(kind): _matmul(AUTO, ODD, kind) for kind in (BF16, FLOAT32, MIXED)
  },
  # As small as in the self-check before step 0.
  'tiny': _matmul(AUTO, TINY, FLOAT32),
  'shard_map': _matmul(AUTO, ODD, MIXED, 4),
  'shard_map, experts split': _matmul(AUTO, ODD, MIXED, 4, True),
  **{
    f'{name}, {experts} experts': _matmul(name, shape, BF16)
    for name in (AUTO, 'ragged_dot')
    for experts, shape in MANY.items()
  },
}
LAYERS = {
  kind: {'devices': 4, 'expert_parallel': kind} for kind in EXPERT_PARALLEL
}


@pytest.fixture(scope='module')
def compiled():
  """By case, what the compiled program has in it."""
  return ahead_of_time.report_of('gpu_compile.py', CASES | LAYERS)


@pytest.mark.parametrize('case', [c for c in CASES if 'ragged' not in c])
def test_it_compiles_to_three_kernels(case, compiled):
  assert 'error' not in compiled[case], compiled[case]
  # y = x w, dx = dy w', dw = x' dy.
  assert sorted(compiled[case]['kernels']) == ['rows', 'rows', 'weights']


def test_only_shared_weights_need_a_collective(compiled):
  assert compiled['shard_map, experts split']['collectives'] == []
  # The gradient's sum over the devices.
  assert compiled['shard_map']['collectives'] == ['all-reduce']
  assert compiled['/'.join(BF16)]['collectives'] == []


def test_memory_does_not_grow_with_the_number_of_experts(compiled):
  few, many = (
    compiled[f'{AUTO}, {experts} experts']['temporaries'] for experts in MANY
  )
  assert many < few + 2**16  # 64 more tiles in a table
  few, many = (
    compiled[f'ragged_dot, {experts} experts']['temporaries']
    for experts in MANY
  )
  assert many > 8 * few  # why auto does not take it


def test_every_kind_of_expert_parallelism_is_compiled():
  assert set(COLLECTIVES) == set(EXPERT_PARALLEL)


@pytest.mark.parametrize('kind', LAYERS)
def test_a_whole_layer_with_split_experts(kind, compiled):
  report = compiled[kind]
  assert 'error' not in report, report
  # Two products forward, two for the rows and two for the weights backward;
  # twice that where there is a second way to go on overflow.
  kernels = report['kernels']
  assert len(kernels) in {6, 12}
  assert kernels.count('weights') * 3 == len(kernels)
  assert COLLECTIVES[kind] <= set(report['collectives'])
