"""Meshes over several slices, on devices that only say where they are."""

import dataclasses

import numpy as np
import pytest

from moejax.core import errors
from moejax.parallel import mesh as meshes
from moejax.parallel.mesh import MeshConfig


@dataclasses.dataclass(frozen=True, order=True)
class Stub:
  """A device of a slice and of a process."""

  id: int
  slice_index: int
  process_index: int
  platform: str = 'cpu'
  device_kind: str = 'stub'


def _devices(slices, each, per_process=2):
  return [Stub(i, i // each, i // per_process) for i in range(slices * each)]


def _grid(config, devices):
  sizes = meshes.filled(config, len(devices))
  across = meshes.slices_along(config, sizes, devices)
  shape = tuple(sizes[a] for a in meshes.AXES)
  return across, meshes._hybrid(config, shape, across, devices)


@pytest.mark.parametrize(
  ('config', 'across'),
  [
    (MeshConfig(), (4, 1, 1, 1, 1, 1)),
    (MeshConfig(data=4, fsdp=-1), (4, 1, 1, 1, 1, 1)),
    (MeshConfig(data=2, fsdp=-1, model=2), (2, 1, 2, 1, 1, 1)),
    (MeshConfig(data=1, fsdp=-1), (1, 1, 4, 1, 1, 1)),
    (MeshConfig(data=2, fsdp=-1, across='fsdp'), (1, 1, 4, 1, 1, 1)),
    (MeshConfig(data=2, expert=-1, across='expert'), (1, 1, 1, 4, 1, 1)),
    (MeshConfig(data=1, expert=-1, granule='process'), (1, 1, 1, 16, 1, 1)),
  ],
)
def test_what_lies_along_the_slow_network(config, across):
  """Along every other axis, neighbours are of one slice."""
  devices = _devices(4, 8)
  found, grid = _grid(config, devices)
  assert found == across
  assert sorted(grid.flat) == devices
  kind = meshes.GRANULES[config.granule]
  place = np.vectorize(lambda d: getattr(d, kind))(grid)
  for axis, number in enumerate(across):
    # Cut into `number` parts, an axis has one slice in each.
    parts = np.split(place, number, axis)
    for part in parts:
      assert (part == part.take([0], axis)).all()


def test_by_hand():
  """Two slices of four: data over both, fsdp within each."""
  _, grid = _grid(MeshConfig(data=2, fsdp=4), _devices(2, 4))
  ids = np.vectorize(lambda d: d.id)(grid)[:, 0, :, 0, 0, 0]
  assert ids.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
  _, grid = _grid(MeshConfig(data=2, fsdp=4, across='fsdp'), _devices(2, 4))
  ids = np.vectorize(lambda d: d.id)(grid)[:, 0, :, 0, 0, 0]
  assert ids.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


@pytest.mark.parametrize(
  ('config', 'devices', 'message'),
  [
    (
      MeshConfig(data=2, fsdp=-1, across='data'),
      _devices(4, 8),
      r'32 devices are in 4 slices of 8, and not mesh.data of the mesh data=2, '
      r'.* can be cut into 4; make one size \(data, say\) a multiple of 4',
    ),
    (
      MeshConfig(),
      _devices(1, 8) + _devices(2, 4)[4:],
      'slices have different',
    ),
    (MeshConfig(across='dat'), _devices(2, 4), "'dat'; did you mean 'data'"),
    (MeshConfig(granule='host'), _devices(2, 4), "mesh.granule 'host'"),
    (
      MeshConfig(data=3, fsdp=4),
      _devices(3, 4, per_process=4)[:8] + _devices(3, 4, 4)[8:],
      None,
    ),
  ],
)
def test_what_does_not_fit(config, devices, message):
  if message is None:
    _grid(config, devices)
    return
  with pytest.raises(errors.InputError, match=message):
    _grid(config, devices)


def test_slices_that_cannot_be_cut_evenly():
  """Three processes of four devices, and sizes of which none has a three."""
  devices = _devices(3, 4, per_process=4)
  sizes = {
    'data': 2,
    'stage': 1,
    'fsdp': 2,
    'expert': 1,
    'context': 1,
    'model': 1,
  }
  with pytest.raises(errors.InputError, match='no axes of the mesh data=2'):
    meshes.slices_along(MeshConfig(granule='process'), sizes, devices)


def test_one_slice_is_as_before():
  assert meshes.slices_along(
    MeshConfig(),
    {'data': 8, 'stage': 1, 'fsdp': 1, 'expert': 1, 'context': 1, 'model': 1},
    _devices(1, 8),
  ) == (1, 1, 1, 1, 1, 1)
