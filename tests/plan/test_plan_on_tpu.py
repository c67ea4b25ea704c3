"""Plans for TPU slices, without a TPU: they need libtpu, and are skipped else.

  pip install 'moejax[tpu]'
  pytest tests/plan/test_plan_on_tpu.py

Each plan is a process of its own, because this one's JAX has been told to be a
CPU; all together they take a minute or two.
"""

import pytest
from helpers import planned

pytest.importorskip('libtpu')

# Small, but with shapes that the kernels take.
SMALL = (
  '--config.model.head_dim=128',
  '--config.model.max_length=256',
  '--config.data.sequence_length=256',
  '--config.model.width=256',
  '--config.model.moe.expert_width=128',
  '--config.train.batch_size=16',
  '--config.mesh.data=2',
  '--config.mesh.fsdp=2',
)


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  code, tree, said = planned.plan(
    tmp_path_factory.mktemp('plan'), '--topology=v5e:2x2', *SMALL
  )
  assert code == 0, said[-2000:]
  return tree


def test_it_fits_and_has_both_estimates(small):
  assert small['fits']
  assert small['devices'] == small['chips'] == 4
  times = small['seconds_per_step']
  assert times['fusions'] > 0
  assert times['kernels'] > 0
  assert set(small['estimates']) == {'compiler', 'roofline'}
  # Nothing is faster than the chip at its best.
  compiler, roofline = small['estimates'].values()
  assert compiler['step_seconds'] > roofline['step_seconds']
  assert 0 < compiler['model_flops_utilisation'] < 1


def test_all_loops_have_a_trip_count(small):
  assert small['program']['loops_without_trip_count'] == 0


def test_collectives_are_along_the_axes_of_the_mesh(small):
  axes = {row['axes'] for row in small['collectives']}
  assert axes <= {'data', 'fsdp', 'data+fsdp'}
  assert 'fsdp' in axes


def test_flops_of_matmuls_and_kernels_are_near_the_arithmetic(small):
  found = small['program']
  executed = found['matmul_flops_per_device'] + found['kernel_flops_per_device']
  model = small['model_flops_per_step'] / small['devices']
  # `matmuls` is computed again in part, routers are not counted, half of the
  # scores is masked, experts' tiles are visited once more at each boundary.
  assert 0.9 < executed / model < 1.7


def test_split_experts_whose_scatters_run_on_sparse_cores(tmp_path):
  """JAX cannot print this program: it is read as the compiler wrote it."""
  code, tree, said = planned.plan(
    tmp_path,
    '--topology=v5p:2x2x2',
    *SMALL[:-2],
    '--config.mesh.data=1',
    '--config.mesh.fsdp=2',
    '--config.mesh.expert=4',
    '--config.model.moe.expert_parallel=all_gather',
  )
  assert code == 0, said[-2000:]
  assert tree['program']['kernel_flops_per_device'] > 0
  kinds = {
    row['kind'] for row in tree['collectives'] if row['axes'] == 'expert'
  }
  # Tokens to all experts' devices, sums back.
  assert {'all-gather', 'reduce-scatter'} <= kinds


def test_two_slices_exchange_their_gradients(tmp_path):
  """Data lies across the slices: nothing else goes over the slow network."""
  code, tree, said = planned.plan(
    tmp_path,
    '--topology=v5e:2x2',
    '--slices=2',
    *SMALL[:-1],
    '--config.mesh.fsdp=4',
    '--config.model.moe.num_experts=0',
  )
  assert code == 0, said[-2000:]
  assert (tree['topology'], tree['slices']) == ('2 x v5e:2x2', 2)
  assert tree['chips'] == 8
  rows = tree['collectives']
  slow = {r['kind']: r for r in rows if r['axes'] == 'between slices'}
  assert set(slow) == {'all-reduce'}
  # Each of two sends its quarter of the gradients, some in bfloat16.
  gradients = tree['parameters']['total'] / 4
  sent = slow['all-reduce']['bytes_per_step']
  assert 2 * gradients < sent < 1.01 * 4 * gradients
  # Weights are gathered within a slice.
  assert {r['axes'] for r in rows} == {'between slices', 'fsdp'}
  assert tree['seconds_per_step']['network'] > sent / 3.125e9


def test_a_kind_that_is_none_is_one_line(tmp_path):
  code, tree, said = planned.plan(tmp_path, '--topology=v5p:3x5x7')
  assert code == 2
  assert tree is None
  lines = [line for line in said.splitlines() if line.startswith('error: ')]
  assert len(lines) == 1
  assert 'is no TPU slice' in lines[0]


def test_what_the_compiler_refuses_does_not_fit(tmp_path):
  # The batch alone, 40 GiB a chip, is more than there is.
  code, tree, said = planned.plan(
    tmp_path,
    '--topology=v5e:2x2',
    '--config.model.moe.num_experts=0',
    '--config.train.batch_size=134217728',
    '--config.mesh.fsdp=4',
    '--config.mesh.data=1',
  )
  assert code == 5, said[-2000:]
  assert not tree['fits']
