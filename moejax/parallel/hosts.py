"""Which part of a global array this process holds."""

from typing import Any

import jax
from jax.sharding import Mesh

from moejax.parallel import rules


def quick_compile(mesh: Mesh) -> dict[str, int]:
  """Compiler options for a program that runs once, where they are known to do.

  On CPU the draws of fresh weights compile in 1.5 s in place of 8.5 and run in
  0.8 s in place of 0.15. Elsewhere nothing is changed.
  """
  if mesh.devices.flat[0].platform != 'cpu':
    return {}
  return {'xla_backend_optimization_level': 0}


def overlap(mesh: Mesh) -> dict[str, str]:
  """Compiler options by which rows travel while others are computed.

  On TPU an all-to-all holds up everything else unless this is asked for.
  """
  if mesh.devices.flat[0].platform != 'tpu':
    return {}
  return {'xla_tpu_enable_async_all_to_all': 'true'}


def put_rows(tree: Any, mesh: Mesh) -> Any:
  """Rows of a batch to the devices, split over the batch axes.

  Args:
    tree: numpy arrays [B, ...], this process's rows of the global batch.
    mesh: the devices.
  """
  sharding = rules.sharding(('batch',), mesh)
  put = lambda x: jax.make_array_from_process_local_data(sharding, x)
  return jax.tree.map(put, tree)
