"""Devices, speeds and the self-check, as `moejax doctor` finds them."""

import types

import jax
import pytest

from moejax.core import errors
from moejax.doctor import examine, machine
from moejax.doctor.finding import BROKEN, MISSING, OK
from moejax.moe import self_check
from moejax.moe.compute.implementations import IMPLEMENTATIONS
from moejax.moe.expert_parallel import EXPERT_PARALLEL


def _device(platform='cpu', kind='cpu', memory=None):
  return types.SimpleNamespace(
    platform=platform, device_kind=kind, memory_stats=lambda: memory
  )


def test_devices_have_their_kind_number_and_memory():
  chips = [_device('tpu', 'TPU v5e', {'bytes_limit': 16 * 2**30})] * 4
  (one,) = machine.devices(chips, nvidia=False, platforms='')
  assert (one.name, one.text) == ('tpu', '4 x TPU v5e, 16.0 GiB each')
  assert (one.value, one.state) == (4, OK)


@pytest.mark.parametrize(
  ('platform', 'nvidia', 'platforms', 'idle'),
  [
    ('cpu', True, '', True),
    ('cpu', False, '', False),
    ('cpu', True, 'cpu', False),  # left out on purpose
    ('gpu', True, '', False),
  ],
)
def test_a_gpu_that_jax_leaves_idle_is_named(platform, nvidia, platforms, idle):
  found = [*machine.devices([_device(platform)], nvidia, platforms)]
  assert len(found) == 1 + idle
  if idle:
    assert found[1].state == MISSING
    assert found[1].remedy == "pip install 'moejax[gpu]'"


def test_a_speed_is_operations_over_seconds_at_a_size_that_takes_long():
  """At 1e10 operations a second, 2 n^3 takes 0.05 s at n = 630: so 1024."""
  rate, n = machine.speed(lambda n: 2 * n**3 / 1e10)
  assert rate == pytest.approx(1e10)
  assert n == 1024
  assert machine.speed(lambda n: 1e-9)[1] == machine.LARGEST
  assert machine.speed(lambda n: 10.0) == (2 * 256**3 / 10, 256)


def test_every_type_is_timed_or_says_why_it_does_not_run(monkeypatch):
  def seconds(dtype, n):
    if dtype == 'float8_e4m3fn':
      raise RuntimeError('UNIMPLEMENTED: no float8\nhere')
    return 1.0

  monkeypatch.setattr(machine, '_seconds', seconds)
  found = {one.name: one for one in machine.matmuls()}
  assert [*found] == [*machine.TYPES]
  last = found.pop('float8_e4m3fn')
  assert last.state == MISSING
  assert last.text == (
    'does not run here (RuntimeError: UNIMPLEMENTED: no float8)'
  )
  assert {one.value for one in found.values()} == {2 * 256**3}


def test_a_product_in_a_type_runs(monkeypatch):
  monkeypatch.setattr(machine, 'LONG_S', 0.0)
  monkeypatch.setattr(machine, 'SMALLEST', 8)
  (one,) = machine.matmuls({'int8': 'int32'})
  assert one.state == OK
  assert one.value > 0


@pytest.fixture
def checked(monkeypatch):
  """Runs `experts` on some devices; the self-check notes what it is given."""
  calls = []

  def run(config, dtype, mesh):
    calls.append((config, mesh))
    if config.grouped_matmul == 'blocked':
      raise errors.StoppedError('self-check: output differs')
    if type(config.expert_parallel).__name__ == 'RaggedAllToAll':
      raise errors.InputError('no ragged exchange here')
    return {'output': 1e-7, 'gradient': 2e-7}

  monkeypatch.setattr(self_check, 'run', run)
  monkeypatch.setattr(machine.compute_dtype, 'resolve', lambda *_: 'float32')

  def checked(count):
    found = {o.name: o for o in machine.experts(jax.devices()[:count])}
    return found, calls

  return checked


def test_each_implementation_of_the_platform_is_checked(checked):
  found, calls = checked(1)
  *names, last = found
  assert {*names} == {'batched', 'blocked', 'ragged_dot', 'fused'}
  assert {*names} < {*IMPLEMENTATIONS}
  assert last == 'collectives'
  assert {config.grouped_matmul for config, _ in calls} == {*names}
  assert all(mesh.devices.size == 1 for _, mesh in calls)
  assert found['fused'].value == 2e-7  # the worst
  assert found['fused'].text == (
    'agrees with the reference to 2.0e-07 of its size in float32'
  )
  assert found['blocked'].state == BROKEN
  assert found['blocked'].text == 'self-check: output differs'
  assert {found[name].state for name in names} == {OK, BROKEN}


def test_each_collective_is_checked_over_all_devices(checked):
  found, calls = checked(4)
  kinds = [name for name in found if name in EXPERT_PARALLEL]
  assert kinds == [*EXPERT_PARALLEL]
  over_all = [config for config, mesh in calls if mesh.shape['expert'] == 4]
  assert len(over_all) == len(kinds)
  assert all(config.num_experts % 4 == 0 for config in over_all)
  assert found['ragged_all_to_all'].state == MISSING
  assert found['ragged_all_to_all'].text == (
    'does not run here: no ragged exchange here'
  )


def test_the_parts_are_those_that_are_asked_for():
  assert {*machine.PARTS} == {*examine.MACHINE}
  assert examine.EXPERTS == machine.EXPERTS


@pytest.mark.soak
def test_this_machine_passes_its_own_self_check():
  found = [*machine.experts(jax.devices()[:1])]
  assert {one.state for one in found} == {OK}
  assert len(found) == 5
