"""Which part of a global array this process holds."""

from typing import Any

import jax
from jax.sharding import Mesh

from moejax.parallel import rules


def put_rows(tree: Any, mesh: Mesh) -> Any:
  """Rows of a batch to the devices, split over the batch axes.

  Args:
    tree: numpy arrays [B, ...], this process's rows of the global batch.
    mesh: the devices.
  """
  sharding = rules.sharding(('batch',), mesh)
  put = lambda x: jax.make_array_from_process_local_data(sharding, x)
  return jax.tree.map(put, tree)
