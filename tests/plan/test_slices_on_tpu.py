"""Meshes and a plan over two TPU slices, without a TPU: libtpu, or skipped.

pip install 'moejax[tpu]'
pytest tests/plan/test_slices_on_tpu.py
"""

import numpy as np
import pytest

from moejax.core import errors
from moejax.parallel import mesh as meshes
from moejax.parallel.mesh import MeshConfig
from moejax.plan import topology

pytest.importorskip('libtpu')


@pytest.fixture(scope='module')
def two_slices():
  """Two slices of 2 x 2 chips."""
  return topology.find('v5e:2x2', slices=2)


def _slices(config, where):
  """Which slice each device of the mesh is of, by its axes."""
  mesh = meshes.make(config, list(where.devices))
  return mesh, np.vectorize(lambda d: d.slice_index)(mesh.devices)


def test_two_slices_are_two_networks(two_slices):
  assert two_slices.name == '2 x v5e:2x2'
  assert (two_slices.chips, two_slices.slices) == (8, 2)
  assert [d.slice_index for d in two_slices.devices] == 4 * [0] + 4 * [1]


def test_data_lies_across_slices_and_fsdp_within(two_slices):
  mesh, slices = _slices(MeshConfig(data=2, fsdp=4), two_slices)
  assert slices[:, :, 0, 0, 0].tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]
  # Both slices are laid out alike.
  first, second = mesh.devices[:, :, 0, 0, 0]
  assert [d.coords for d in first] == [d.coords for d in second]
  assert len({*mesh.devices.flat}) == 8


@pytest.mark.parametrize(
  ('config', 'across'),
  [
    (MeshConfig(data=4, fsdp=2), 'data'),
    (MeshConfig(data=2, fsdp=2, expert=2), 'data'),
    (MeshConfig(data=2, model=-1), 'data'),
    # No data to cut: fsdp is next.
    (MeshConfig(data=1, fsdp=-1), 'fsdp'),
    (MeshConfig(data=2, fsdp=4, across='fsdp'), 'fsdp'),
    (MeshConfig(data=2, expert=4, across='expert'), 'expert'),
  ],
)
def test_the_halves_of_one_axis_are_the_slices(two_slices, config, across):
  _, slices = _slices(config, two_slices)
  first, second = np.split(slices, 2, meshes.AXES.index(across))
  assert (first == 0).all()
  assert (second == 1).all()


def test_neighbours_within_a_slice_are_neighbours_in_its_torus(two_slices):
  mesh, _ = _slices(MeshConfig(data=4, fsdp=2), two_slices)
  for one, other in mesh.devices[:, :, 0, 0, 0]:
    steps = np.subtract(one.coords, other.coords)
    assert np.abs(steps).sum() == 1


def test_an_axis_that_is_not_cut_evenly_is_refused(two_slices):
  config = MeshConfig(data=1, fsdp=8, across='data')
  with pytest.raises(errors.InputError, match='8 devices are in 2 slices of 4'):
    meshes.make(config, list(two_slices.devices))
