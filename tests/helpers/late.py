"""A run of which process 1 comes to the first collectives after the others.

  python late.py --coordinator=... --num-processes=2 --process-id=0

Prints the sums over the axes of a mesh of two by two devices.
"""

import sys
import time

import jax
import numpy as np
from jax.sharding import PartitionSpec

from moejax import config
from moejax.core import command, exits
from moejax.parallel import hosts, rules
from moejax.parallel import mesh as meshes
from moejax.run import processes

LATE_S = 35  # JAX waits for 30


def main(argv):
  flags = command.parser(__doc__)
  processes.add_flags(flags)
  args, _ = command.parse(flags, argv)
  joining = processes.joined(processes.read_flags(args), config.Run())
  with joining as joined:
    mesh = meshes.make(meshes.MeshConfig(data=2, fsdp=2))
    hosts.connect(mesh, joined.group)
    if joined.group.index == 1:
      time.sleep(LATE_S)
    rows = rules.sharding(('batch',), mesh)
    x_B = jax.device_put(np.arange(4, dtype=np.int32), rows)
    sums = []
    for axes in (('data',), ('fsdp',), ('data', 'fsdp')):
      add = jax.shard_map(
        lambda x, axes=axes: jax.lax.psum(x, axes),
        mesh=mesh,
        in_specs=PartitionSpec(('data', 'fsdp')),
        out_specs=PartitionSpec(('data', 'fsdp')),
      )
      sums.append(hosts.fetch(jax.jit(add)(x_B)).tolist())
    sys.stdout.write(f'sums {sums}\n')
    sys.stdout.flush()


if __name__ == '__main__':
  exits.main(main)
