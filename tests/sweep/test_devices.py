"""Cores, GPUs and TPU chips of the processes of a sweep."""

import pytest

from moejax.core import errors
from moejax.sweep import devices

CUDA, TPU = 'CUDA_VISIBLE_DEVICES', 'TPU_VISIBLE_CHIPS'


def _machine(pattern, num):
  """Finds files for devices of one kind."""
  return lambda asked: (
    [f'/dev/x{i}' for i in range(num)] if asked == pattern else []
  )


GPUS_8 = _machine('/dev/nvidia[0-9]*', 8)


def test_shares_of_cores():
  assert devices.shares(2, [0, 1, 2, 3, 4]) == [[0, 1], [2, 3, 4]]
  assert devices.shares(3, [4, 6]) == [[4], [4], [6]]
  assert devices.shares(1, [0, 1]) == [[0, 1]]


def test_gpus_are_divided():
  found = devices.environments(4, {}, GPUS_8)
  assert found == [{CUDA: part} for part in ('0,1', '2,3', '4,5', '6,7')]
  assert devices.environments(8, {}, GPUS_8)[5] == {CUDA: '5'}


def test_one_process_gets_what_jax_finds():
  assert devices.environments(1, {CUDA: '2,3'}, GPUS_8) == [{}]


def test_a_machine_without_accelerators_sets_nothing():
  assert devices.environments(2, {}, lambda _: []) == [{}, {}]


def test_only_those_that_the_sweep_may_use_are_divided():
  assert devices.environments(2, {CUDA: '5,7'}, GPUS_8) == [
    {CUDA: '5'},
    {CUDA: '7'},
  ]
  assert devices.environments(2, {CUDA: ''}, GPUS_8) == [{}, {}]


def test_a_sweep_on_the_cpu_leaves_gpus_alone():
  for platforms in ('cpu', 'tpu'):
    environ = {'JAX_PLATFORMS': platforms}
    assert devices.environments(2, environ, GPUS_8) == [{}, {}]
  environ = {'JAX_PLATFORMS': 'cuda,cpu'}
  assert devices.environments(8, environ, GPUS_8)[0] == {CUDA: '0'}


def test_processes_that_share_a_gpu_do_not_take_its_memory_in_advance():
  one = _machine('/dev/nvidia[0-9]*', 1)
  name = 'XLA_PYTHON_CLIENT_PREALLOCATE'
  assert devices.environments(2, {}, one) == 2 * [{CUDA: '0', name: 'false'}]
  # The user's own choice stays.
  assert devices.environments(2, {name: 'true'}, one) == 2 * [{CUDA: '0'}]


@pytest.mark.parametrize('files', ['/dev/accel[0-9]*', '/dev/vfio/[0-9]*'])
def test_a_tpu_chip_takes_one_process(files):
  four = _machine(files, 4)
  second = devices.environments(2, {}, four)[1]
  assert second == {
    TPU: '1',
    'TPU_CHIPS_PER_PROCESS_BOUNDS': '1,1,1',
    'TPU_PROCESS_BOUNDS': '1,1,1',
  }
  with pytest.raises(errors.InputError) as e:
    devices.environments(5, {}, four)
  assert '--processes=5, and this machine has 4 x TPU chip' in str(e.value)
  assert 'use --processes=4 or fewer' in str(e.value)
