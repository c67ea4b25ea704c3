import jax
import numpy as np
import pytest

from moejax.core import errors
from moejax.parallel import mesh as meshes
from moejax.parallel.mesh import MeshConfig


@pytest.mark.parametrize(
  ('config', 'sizes'),
  [
    (MeshConfig(), (8, 1, 1, 1, 1, 1)),
    (MeshConfig(data=8), (8, 1, 1, 1, 1, 1)),
    (MeshConfig(data=2, fsdp=4), (2, 1, 4, 1, 1, 1)),
    (MeshConfig(data=2, fsdp=-1), (2, 1, 4, 1, 1, 1)),
    (MeshConfig(fsdp=8), (1, 1, 8, 1, 1, 1)),
    (MeshConfig(data=-1, fsdp=2), (4, 1, 2, 1, 1, 1)),
    (MeshConfig(stage=4, model=2), (1, 4, 1, 1, 1, 2)),
    (MeshConfig(context=4, model=2), (1, 1, 1, 1, 4, 2)),
  ],
)
def test_sizes_and_minus_one_is_the_rest(config, sizes):
  mesh = meshes.make(config)
  assert mesh.axis_names == meshes.AXES
  assert tuple(mesh.shape.values()) == sizes
  assert set(mesh.devices.flat) == set(jax.devices())
  assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


def test_some_devices():
  devices = jax.devices()[2:6]
  mesh = meshes.make(MeshConfig(data=2, fsdp=2), devices)
  assert list(mesh.devices.flat) == devices
  assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}
  assert meshes.make(MeshConfig(), jax.devices()[:1]).size == 1


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    (MeshConfig(data=3), r'mesh data=3, .* does not fit 8 devices; make the'),
    (MeshConfig(data=16), 'does not fit 8 devices'),
    (MeshConfig(data=4), 'does not fit 8 devices'),
    (MeshConfig(data=-1, fsdp=3), 'does not fit 8 devices'),
    (MeshConfig(data=-1, fsdp=-1), 'at most one -1'),
    (MeshConfig(data=0), 'must be positive'),
  ],
)
def test_sizes_that_do_not_fit(config, message):
  with pytest.raises(errors.InputError, match=message):
    meshes.make(config)


def test_rows_of_a_batch_must_divide():
  mesh = meshes.make(MeshConfig(data=2, fsdp=2, expert=2))
  assert meshes.batch_size(mesh) == 8
  meshes.check_rows(16, mesh, 'train.batch_size')
  with pytest.raises(errors.InputError) as error:
    meshes.check_rows(12, mesh, 'train.batch_size')
  assert str(error.value) == (
    'train.batch_size=12 rows do not divide over the 8 parts of the mesh '
    '(data=2 x fsdp=2 x expert=2); use a multiple of 8'
  )
  mesh = meshes.make(MeshConfig(stage=4, fsdp=2))
  with pytest.raises(errors.InputError, match='fsdp=2 x expert=1 x stage=4'):
    meshes.check_rows(12, mesh, 'train.batch_size')
  # The other four parts are of the length of a row.
  mesh = meshes.make(MeshConfig(data=2, context=4))
  assert meshes.batch_size(mesh) == 8
  meshes.check_rows(2, mesh, 'train.batch_size')
  with pytest.raises(errors.InputError, match='use a multiple of 2'):
    meshes.check_rows(1, mesh, 'train.batch_size')


def test_a_devices_rows_are_consecutive():
  """Which is what gradient accumulation and data loading count on."""
  mesh = meshes.make(MeshConfig(data=2, fsdp=4))
  sharding = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(meshes.BATCH_AXES)
  )
  where = sharding.devices_indices_map((16,))
  starts = [where[d][0].indices(16)[:2] for d in mesh.devices.flat]
  assert starts == [(i, i + 2) for i in np.arange(0, 16, 2)]
