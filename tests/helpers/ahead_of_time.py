"""Programs compiled for accelerators that are not there."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from moejax.moe.compute import grouped_matmuls

ROOT = pathlib.Path(__file__).parents[2]


def report_of(helper, cases, **env):
  """What a program beside this one says of each case, by its name.

  The program runs in a process of its own, because the JAX of this one has been
  told to be a CPU with fake devices.
  """
  path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
  env = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': path} | env
  env.pop('XLA_FLAGS', None)
  done = subprocess.run(
    [
      sys.executable,
      str(ROOT / 'tests' / 'helpers' / helper),
      json.dumps(list(cases.values())),
    ],
    capture_output=True,
    text=True,
    env=env,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return dict(zip(cases, json.loads(done.stdout), strict=True))


def matmul(devices, name, shape, dtypes, split=False):
  """A grouped matmul and its gradients.

  Args:
    devices: the devices; shard_map splits the rows over several.
    name: its name in GROUPED_MATMULS.
    shape: rows of a device, depth, width, experts.
    dtypes: of the rows and of the weights.
    split: whether the experts are split over the devices too.
  """
  rows, depth, width, experts = shape
  mesh = Mesh(np.array(devices), ('device',))
  multiply = grouped_matmuls.GROUPED_MATMULS[name]()
  by_rows, by_expert = P('device'), P('device') if split else P()

  def local(x_RD, w_EDF, size_1E):
    return multiply(x_RD, w_EDF, size_1E[0])

  run = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(by_rows, by_expert, by_rows),
    out_specs=by_rows,
  )
  if len(devices) == 1:
    run = local

  def both(x_RD, w_EDF, dy_RF, size_1E):
    y_RF, pull = jax.vjp(lambda x, w: run(x, w, size_1E), x_RD, w_EDF)
    return y_RF, *pull(dy_RF)

  num = len(devices)
  arguments = (
    ((num * rows, depth), dtypes[0], by_rows),
    ((experts, depth, width), dtypes[1], by_expert),
    ((num * rows, width), dtypes[0], by_rows),
    ((num, experts // num if split else experts), 'int32', by_rows),
  )
  arguments = [
    jax.ShapeDtypeStruct(
      shape, jnp.dtype(dtype), sharding=NamedSharding(mesh, spec)
    )
    for shape, dtype, spec in arguments
  ]
  # Kernels for GPUs are lowered for the kind of GPU that the mesh has.
  with jax.set_mesh(mesh):
    return jax.jit(both).lower(*arguments).compile()
