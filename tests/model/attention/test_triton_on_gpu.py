"""Attention compiled for NVIDIA GPUs, forward and backward, without one.

See `tests/moe/test_gpu_compile.py`.
"""

import pytest
from helpers import ahead_of_time

pytestmark = pytest.mark.gpu_plan

KERNELS = ['attention', 'attention_dkv', 'attention_dq']
# Rows, tokens, query heads, key heads, widths of keys and of values.
SHAPES = {
  'grouped': (4, 4096, 8, 2, 128, 128),
  'latent': (4, 4096, 8, 8, 192, 128),
  'widest': (4, 4096, 4, 2, 512, 512),
  'odd': (4, 1000, 3, 1, 24, 20),
}


def _case(gpu, name, dtype, devices=1):
  return {
    'gpu': gpu,
    'devices': devices,
    'heads': SHAPES[name],
    'dtype': dtype,
  }


GPUS = ('h200', 'b200')
CASES = {
  **{
    f'{name} {gpu}': _case(gpu, name, 'bfloat16')
    for name in SHAPES
    for gpu in GPUS
  },
  **{
    f'float32 {gpu}': _case(gpu, 'grouped', 'float32') for gpu in GPUS
  },
  'split': _case('h200', 'grouped', 'bfloat16', 4),
}  # fmt: skip


@pytest.fixture(scope='module')
def compiled():
  """By case, what the compiled program has in it."""
  return ahead_of_time.report_of('gpu_compile.py', CASES)


@pytest.mark.parametrize('case', CASES)
def test_it_compiles_to_three_kernels(case, compiled):
  report = compiled[case]
  assert 'error' not in report, report
  assert sorted(report['kernels']) == KERNELS
  assert report['collectives'] == []


def test_no_score_is_written(compiled):
  """What a query keeps is two numbers of float32 a head."""
  rows, length, heads, *_ = SHAPES['grouped']
  kept = compiled['grouped h200']['temporaries']
  assert kept < 2.1 * 4 * rows * length * heads < rows * heads * length**2
