"""Every entry of the zoo as a layer on all meshes: see tests/contracts."""

import pytest
from helpers import whole_layers


@pytest.mark.parametrize(
  ('name', 'mesh'),
  [
    (name, mesh)
    for name in whole_layers.names()
    for mesh in sorted(whole_layers.MESHES)
    if whole_layers.goes(name, mesh)
  ],
)
def test_a_mesh_changes_nothing(name, mesh):
  whole_layers.check(whole_layers.config_of(name), mesh)
