"""Grouped matmuls compiled for TPUs, forward and backward, without a TPU.

They run where libtpu is installed (700 MB, Linux), which the tests' extra does
not ask for; nothing is executed:

  pip install 'moejax[tpu]'
  pytest tests/moe/test_tpu_compile.py

One process of its own compiles all cases, because this one's JAX has been told
to be a CPU; it takes a minute.
"""

import pytest
from helpers import ahead_of_time

from moejax.moe.expert_parallel import EXPERT_PARALLEL

pytest.importorskip('libtpu')

# Rows, depth, width, experts. Nothing in the first is a multiple of a tile.
ODD, TINY = (1000, 200, 136, 8), (1500, 16, 8, 8)
LARGE = (32768, 4096, 4096, 8)
BF16, FLOAT32 = ('bfloat16', 'bfloat16'), ('float32', 'float32')
MIXED = ('bfloat16', 'float32')
SMALL_POD, BIG_POD = 'v5e:2x2', 'v5p:2x2x1'
NAMES = ('megablox', 'ragged_dot')
# What else of collectives a layer whose experts are split must have.
LAYERS = {
  'all_to_all': {'all-to-all'},
  'gather_experts': {'all-gather'},
  'ragged_all_to_all': {'ragged-all-to-all'},
  'all_gather': {'all-gather'},
}


def _cases():
  cases = {}
  for name in NAMES:
    case = {'topology': SMALL_POD, 'name': name, 'shape': ODD}
    for kind in (BF16, FLOAT32, MIXED):
      cases[f'{name} {"/".join(kind)}'] = case | {'dtypes': kind}
    four = case | {'dtypes': MIXED, 'devices': 4}
    cases[f'{name} shard_map'] = four
    cases[f'{name} shard_map experts'] = four | {'split': True}
    cases[f'{name} other TPU'] = case | {'topology': BIG_POD, 'dtypes': BF16}
    # The largest tiles, which must fit into the chip's fast memory.
    cases[f'{name} large'] = case | {'shape': LARGE, 'dtypes': MIXED}
  # As small as in the self-check before step 0.
  tiny = {'topology': SMALL_POD, 'name': 'megablox', 'shape': TINY}
  cases['megablox tiny'] = tiny | {'dtypes': BF16}
  return cases


MATMULS = _cases()
CHUNKS = {
  f'{chunks} chunks': {
    'topology': BIG_POD,
    'expert_parallel': 'all_to_all',
    'options': {'overflow': 'drop', 'chunks': chunks},
  }
  for chunks in (1, 4)
}
CASES = (
  MATMULS
  | {name: {'topology': SMALL_POD, 'expert_parallel': name} for name in LAYERS}
  | CHUNKS
)


@pytest.fixture(scope='module')
def compiled():
  """By case, what the compiled program has in it."""
  return ahead_of_time.report_of(
    'tpu_compile.py', CASES, TPU_SKIP_MDS_QUERY='1'
  )


@pytest.mark.parametrize('case', MATMULS)
def test_it_compiles_to_three_kernels(case, compiled):
  found = compiled[case]
  assert 'error' not in found, found['error']
  assert len(found['kernels']) == 3
  if 'megablox' in case:
    # y = x w, dx = dy w', dw = x' dy.
    kinds = ['tgmm' if 'tgmm' in k else 'gmm' for k in found['kernels']]
    assert sorted(kinds) == ['gmm', 'gmm', 'tgmm']
    assert all('gmm' in k for k in found['kernels'])


@pytest.mark.parametrize('name', NAMES)
def test_only_shared_weights_need_a_collective(name, compiled):
  assert compiled[f'{name} shard_map experts']['collectives'] == []
  shared = compiled[f'{name} shard_map']['collectives']
  assert shared == ['all-reduce']  # the gradient's sum over the devices
  assert compiled[f'{name} bfloat16/bfloat16']['collectives'] == []


def test_the_gradient_of_the_weights_is_why_auto_takes_megablox(compiled):
  # ragged_dot's multiplies all rows with each of the 8 experts.
  assert compiled['ragged_dot bfloat16/bfloat16']['flops'] > (1 + 1 + 8) / 3
  assert compiled['megablox bfloat16/bfloat16']['flops'] < 1.1


def test_every_kind_of_expert_parallelism_is_compiled():
  assert set(LAYERS) == set(EXPERT_PARALLEL)


@pytest.mark.parametrize('name', LAYERS)
def test_a_whole_layer_with_split_experts_takes_megablox(name, compiled):
  found = compiled[name]
  assert 'error' not in found, found['error']
  # Two kernels forward, both sides of the activation and dx backward, and three
  # for the weights; twice that where there is a second way to go on overflow.
  kernels = found['kernels']
  count = lambda name: sum(name in kernel for kernel in kernels)
  assert len(kernels) in {7, 14}
  assert count('grouped_swiglu') * 7 == 3 * len(kernels)
  assert count('tgmm') * 7 == 3 * len(kernels)
  assert count('gmm') * 7 == 4 * len(kernels)
  assert LAYERS[name] <= set(found['collectives'])


def test_chunks_travel_while_others_are_computed(compiled):
  """In one piece, only the three weights' gradients are left meanwhile."""
  one, four = (compiled[name]['overlapped'] for name in CHUNKS)
  assert 0 <= one <= 3
  assert four > 8
