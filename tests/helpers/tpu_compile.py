"""Compiles grouped matmuls for TPUs that are not there; writes JSON.

  python tests/helpers/tpu_compile.py '[{"topology": "v5e:2x2", ...}]'

A case has a `topology`, and either a grouped matmul:

  name             its name in GROUPED_MATMULS
  shape            rows, depth, width, experts
  dtypes           of the rows and of the weights
  devices          number of devices that shard_map splits the rows over; with 1
                   there is no shard_map
  split            whether the experts are split over the devices too

or a whole layer with experts, which are split over 4 devices:

  expert_parallel  the name of the kind in EXPERT_PARALLEL
  options          its fields

The JSON has for each case: the compiled program's Pallas kernels, how many of
them run between the start and the end of an all-to-all, its collectives, and
its FLOPs over those of the product itself; or the compiler's error.
"""

import json
import re
import sys

import ahead_of_time
import jax
from jax.experimental import topologies

from benchmarks import expert_parallel as benchmark
from benchmarks import standard
from moejax.model.config import ModelConfig
from moejax.moe.config import MoEConfig
from moejax.moe.expert_parallel import EXPERT_PARALLEL
from moejax.parallel import collective_bytes


def main() -> None:
  reports = [_case(**case) for case in json.loads(sys.argv[1])]
  sys.stdout.write(json.dumps(reports))


def _tpu(topology):
  return topologies.get_topology_desc(
    platform='tpu', topology_name=topology
  ).devices


def _layer(topology, expert_parallel, options=()):
  config = ModelConfig(
    width=256, moe=MoEConfig(num_experts=8, expert_width=128)
  )
  return benchmark.compiled(
    standard.Shape(config, 4, 250),
    EXPERT_PARALLEL[expert_parallel](**dict(options)),
    _tpu(topology)[:4],
    backward=True,
  )


def _case(expert_parallel=None, **case):
  try:
    if expert_parallel:
      return _report(_layer(expert_parallel=expert_parallel, **case))
    return _report(*_matmul(**case))
  except jax.errors.JaxRuntimeError as e:
    return {'error': str(e)[:500]}


def _matmul(topology, shape, devices=1, **case):
  rows, depth, width, _ = shape
  program = ahead_of_time.matmul(_tpu(topology)[:devices], shape=shape, **case)
  return program, 3 * 2 * rows * depth * width


def _overlapped(text):
  """Number of kernels between an all-to-all's start and end, as scheduled."""
  kernels, on_their_way = 0, set()
  for line in text[text.index('\nENTRY ') :].splitlines():
    if start := re.match(r'\s+%(all-to-all-start[.\d]*) = ', line):
      on_their_way.add(start[1])
    elif done := re.search(
      r' all-to-all-done\(.*%(all-to-all-start[.\d]*)', line
    ):
      on_their_way.discard(done[1])
    elif on_their_way:
      kernels += '"tpu_custom_call"' in line
  return kernels


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
