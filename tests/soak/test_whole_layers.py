"""Every entry of the zoo as a layer on both meshes: see tests/contracts."""

import pytest
from helpers import whole_layers


@pytest.mark.parametrize('mesh', sorted(whole_layers.MESHES))
@pytest.mark.parametrize('name', whole_layers.names())
def test_a_mesh_changes_nothing(name, mesh):
  whole_layers.check(whole_layers.config_of(name), mesh)
