"""Plans for GPUs that are not there: `make test-gpu-plan`.

Each plan is a process of its own, because this one's JAX has been told to be a
CPU; all together they take two minutes.
"""

import pytest
from helpers import planned

from moejax import config
from moejax.core import exits
from moejax.model.attention import triton_kernels
from moejax.plan import count

pytestmark = pytest.mark.gpu_plan

# Widths of experts fill the kernels' tiles, so that no column is computed in
# vain; every layer has experts.
SMALL = {
  'model.width': '256',
  'model.moe.expert_width': '128',
  'model.first_dense': '0',
  'model.remat': 'none',
  'train.batch_size': '16',
  'train.micro_batches': '1',
  'mesh.data': '2',
  'mesh.fsdp': '4',
}


def _plan(folder, topology, settings):
  flags = (f'--config.{key}={value}' for key, value in settings.items())
  return planned.plan(folder, f'--topology={topology}', *flags)


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  code, tree, err = _plan(tmp_path_factory.mktemp('plan'), 'h200:8', SMALL)
  assert code == exits.DONE, err
  return tree


def test_memory_and_collectives_are_read_from_the_program(small):
  parts = {p['part']: p['bytes'] for p in small['bytes_per_device']['parts']}
  assert parts['activations and temporary'] > 0
  kinds = {(c['kind'], c['axes']) for c in small['collectives']}
  assert ('all-gather', 'fsdp') in kinds
  assert small['bytes_per_device']['limit'] == 151397597184


def test_products_are_those_of_the_model(small):
  """Those of the kernels, worked out, and all of them together."""
  run = config.load(f'{planned.CONFIG}:tiny', [*SMALL.items()])
  model, tokens = run.model, run.data.sequence_length * run.train.batch_size
  found = {
    name: 8 * small['program'][f'{name}_flops_per_device']
    for name in ('kernel', 'matmul')
  }
  # Forward, and for both factors backward; three matrices of each expert.
  expert = 3 * 2 * 3 * model.width * model.moe.expert_width
  experts = tokens * model.num_layers * model.moe.router.k * expert
  # Two products forward, three for the queries' gradient and four for those of
  # keys and values, of the blocks of pairs that are visited.
  length, rows = run.data.sequence_length, run.train.batch_size
  width = model.num_heads * model.head_dim
  pairs = triton_kernels.sizes(length, 4 * model.head_dim).pairs(length)
  attention = model.num_layers * rows * 2 * pairs * (2 + 3 + 4) * width
  assert found['kernel'] == experts + attention
  # The count has all pairs, and no product twice.
  all_pairs = model.num_layers * rows * 2 * length**2 * 6 * width
  counted = count.count(model).flops(length) * rows
  assert sum(found.values()) - attention == pytest.approx(
    counted - all_pairs, rel=0.005
  )
  assert small['program']['loops_without_trip_count'] == 0


def test_seconds_are_arithmetic(small):
  assert set(small['estimates']) == {'in turn', 'roofline'}
  in_turn, roofline = (
    small['estimates'][name]['step_seconds'] for name in ('in turn', 'roofline')
  )
  assert in_turn >= roofline * (1 - 1e-9) > 0


def test_eight_hosts_of_eight(tmp_path):
  """For 64 GPUs the compiler chooses other kernels than for eight."""
  many = {'mesh.data': '8', 'mesh.fsdp': '8', 'train.batch_size': '64'}
  code, tree, err = _plan(tmp_path, 'h200:8x8', SMALL | many)
  assert code == exits.DONE, err
  assert tree['devices'] == 64
  assert any(c['axes'] == 'data' for c in tree['collectives'])


def test_between_hosts_it_is_slower(small, tmp_path):
  code, tree, err = _plan(tmp_path, 'h200:4x2', SMALL)
  assert code == exits.DONE, err
  seconds = lambda plan: plan['seconds_per_step']['network']
  assert seconds(tree) > seconds(small)


def test_a_step_that_does_not_fit_is_refused_by_the_plan(tmp_path):
  """XLA for GPUs compiles it all the same."""
  large = SMALL | {'train.batch_size': '400000', 'model.remat': 'none'}
  code, tree, err = _plan(tmp_path, 'h100:8', large)
  assert code == exits.DOES_NOT_FIT, err
  assert tree['bytes_per_device']['total'] > tree['bytes_per_device']['limit']
  assert 'needs more memory than there is, by ' in err
