"""Every router x dispatcher x expert_parallel x mesh equals one device.

The default run takes pairs (`tests/contracts/test_meshes.py`); here is
the product:

  python -m pytest tests/soak/test_all_meshes.py
"""

import pytest
from helpers import sharded

from moejax.moe.dispatchers import DISPATCHERS
from moejax.moe.expert_parallel import EXPERT_PARALLEL
from moejax.moe.routers import ROUTERS

SPLIT = [name for name, sizes in sharded.MESHES.items() if 'expert' in sizes]
# Without an expert axis no expert parallelism takes part.
CASES = [
  *(
    (mesh, dispatcher, 'gather_experts')
    for mesh in sorted(set(sharded.MESHES) - set(SPLIT))
    for dispatcher in sorted(DISPATCHERS)
  ),
  *(
    (mesh, dispatcher, expert_parallel)
    for mesh in SPLIT
    for dispatcher in sorted(DISPATCHERS)
    for expert_parallel in sorted(EXPERT_PARALLEL)
  ),
]


@pytest.mark.parametrize(('mesh', 'dispatcher', 'expert_parallel'), CASES)
def test_all_routers(mesh, dispatcher, expert_parallel):
  sharded.check(mesh, dispatcher, expert_parallel, sorted(ROUTERS))
