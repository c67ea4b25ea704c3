"""Every router x dispatcher x exchange x mesh equals one device.

The default run takes pairs (`tests/contracts/test_meshes.py`); here is
the product:

  python -m pytest tests/soak/test_all_meshes.py
"""

import pytest
from helpers import sharded

from moejax.moe.dispatchers import DISPATCHERS
from moejax.moe.exchanges import EXCHANGES
from moejax.moe.routers import ROUTERS

SPLIT = [name for name, sizes in sharded.MESHES.items() if 'expert' in sizes]
# Without an expert axis no exchange takes part.
CASES = [
  *(
    (mesh, dispatcher, 'gathered')
    for mesh in sorted(set(sharded.MESHES) - set(SPLIT))
    for dispatcher in sorted(DISPATCHERS)
  ),
  *(
    (mesh, dispatcher, exchange)
    for mesh in SPLIT
    for dispatcher in sorted(DISPATCHERS)
    for exchange in sorted(EXCHANGES)
  ),
]


@pytest.mark.parametrize(('mesh', 'dispatcher', 'exchange'), CASES)
def test_all_routers(mesh, dispatcher, exchange):
  sharded.check(mesh, dispatcher, exchange, sorted(ROUTERS))
