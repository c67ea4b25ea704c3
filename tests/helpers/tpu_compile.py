"""Compiles grouped matmuls for TPUs that are not there; writes JSON.

  python tests/helpers/tpu_compile.py '[{"topology": "v5e:2x2", ...}]'

A case has a topology, and

  name      of a grouped matmul; shape: rows, depth, width, experts; dtypes, of
            rows and of weights; devices, over which the rows are split by
            shard_map (none, if 1); split, whether the experts are split too
  exchange  or the name of one: a whole layer, its experts split over 4 devices
  options   of it

For each: the compiled program's Pallas kernels, how many of them run while an
all-to-all is on its way, its collectives, and its FLOPs over those of the
product itself; or the error.
"""

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import standard
from moejax.model.config import ModelConfig
from moejax.moe.compute import grouped_matmuls
from moejax.moe.config import MoEConfig
from moejax.moe.expert_parallel import EXPERT_PARALLEL
from moejax.parallel import collective_bytes


def main() -> None:
  found = [_case(**case) for case in json.loads(sys.argv[1])]
  sys.stdout.write(json.dumps(found))


def _layer(topology, expert_parallel, options=()):
  found = topologies.get_topology_desc(platform='tpu', topology_name=topology)
  config = ModelConfig(
    width=256, moe=MoEConfig(num_experts=8, expert_width=128)
  )
  return expert_parallel.compiled(
    standard.Shape(config, 4, 250),
    EXPERT_PARALLEL[expert_parallel](**dict(options)),
    found.devices[:4],
    backward=True,
  )


def _case(expert_parallel=None, **case):
  try:
    if expert_parallel:
      return _report(_layer(expert_parallel=expert_parallel, **case))
    return _report(*_matmul(**case))
  except jax.errors.JaxRuntimeError as e:
    return {'error': str(e)[:500]}


def _matmul(topology, name, shape, dtypes, devices=1, split=False):
  rows, depth, width, experts = shape
  found = topologies.get_topology_desc(platform='tpu', topology_name=topology)
  mesh = Mesh(np.array(found.devices[:devices]), ('device',))
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
  if devices == 1:
    run = local

  def both(x_RD, w_EDF, dy_RF, size_1E):
    y_RF, pull = jax.vjp(lambda x, w: run(x, w, size_1E), x_RD, w_EDF)
    return y_RF, *pull(dy_RF)

  here = experts // devices if split else experts
  arguments = (
    ((devices * rows, depth), dtypes[0], by_rows),
    ((experts, depth, width), dtypes[1], by_expert),
    ((devices * rows, width), dtypes[0], by_rows),
    ((devices, here), 'int32', by_rows),
  )
  arguments = [
    jax.ShapeDtypeStruct(
      shape, jnp.dtype(dtype), sharding=NamedSharding(mesh, spec)
    )
    for shape, dtype, spec in arguments
  ]
  compiled = jax.jit(both).lower(*arguments).compile()
  return compiled, 3 * 2 * rows * depth * width


def _overlapped(text):
  """Kernels between the start of an all-to-all and its end, as scheduled."""
  found, on_their_way = 0, set()
  for line in text[text.index('\nENTRY ') :].splitlines():
    if start := re.match(r'\s+%(all-to-all-start[.\d]*) = ', line):
      on_their_way.add(start[1])
    elif done := re.search(
      r' all-to-all-done\(.*%(all-to-all-start[.\d]*)', line
    ):
      on_their_way.discard(done[1])
    elif on_their_way:
      found += '"tpu_custom_call"' in line
  return found


def _report(compiled, flops=1):
  """What a compiled program has in it."""
  text = compiled.as_text()
  calls = [line for line in text.splitlines() if '"tpu_custom_call"' in line]
  return {
    'kernels': sorted(re.search(r'%([a-z_]+)', line)[1] for line in calls),
    'collectives': sorted(
      collective_bytes.by_kind(
        collective_bytes.collectives(text), optional=True
      )
    ),
    'overlapped': _overlapped(text),
    'flops': compiled.cost_analysis()['flops'] / flops,
  }


if __name__ == '__main__':
  main()
