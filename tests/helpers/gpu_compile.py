"""Compiles routed experts for NVIDIA GPUs that are not there; writes JSON.

  python tests/helpers/gpu_compile.py '[{"devices": 1, ...}]'

A case has `devices`, the number of H200s of one host, and either a grouped
matmul:

  name             its name in GROUPED_MATMULS, or `auto`: the experts as
                   `choose` makes them
  shape            rows, depth, width, experts
  dtypes           of the rows and of the weights
  split            whether the experts are split over the devices too

or a whole layer with experts, which are split over the devices:

  expert_parallel  the name of the kind in EXPERT_PARALLEL

The JSON has for each case: the compiled program's Triton kernels, its
collectives, and the bytes of its temporaries; or the compiler's error.
"""

import json
import re
import sys

import ahead_of_time
import jax

from benchmarks import expert_parallel as benchmark
from benchmarks import standard
from moejax.model.config import ModelConfig
from moejax.moe.config import MoEConfig
from moejax.moe.expert_parallel import EXPERT_PARALLEL
from moejax.parallel import collective_bytes
from moejax.parallel import mesh as meshes
from moejax.plan import topology


def main() -> None:
  reports = [_case(**case) for case in json.loads(sys.argv[1])]
  sys.stdout.write(json.dumps(reports))


def _gpus(number):
  return topology.find(f'h200:{number}').devices


def _case(devices, expert_parallel=None, **case):
  try:
    if expert_parallel:
      return _report(_layer(_gpus(devices), expert_parallel))
    return _report(ahead_of_time.matmul(_gpus(devices), **case))
  except jax.errors.JaxRuntimeError as e:
    return {'error': str(e)[:500]}


def _layer(devices, expert_parallel):
  config = ModelConfig(
    width=256, moe=MoEConfig(num_experts=8, expert_width=128)
  )
  mesh = meshes.make(meshes.MeshConfig(data=1, expert=len(devices)), devices)
  with jax.set_mesh(mesh):
    return benchmark.compiled(
      standard.Shape(config, 4, 250),
      EXPERT_PARALLEL[expert_parallel](),
      devices,
      backward=True,
    )


def _report(compiled):
  """What a compiled program has in it."""
  text = compiled.as_text()
  calls = [
    line for line in text.splitlines() if '"__gpu$xla.gpu.triton"' in line
  ]
  return {
    'kernels': [
      re.search(r'moejax_triton_([a-z]+)', line)[1] for line in calls
    ],
    'collectives': sorted(
      collective_bytes.by_kind(
        collective_bytes.collectives(text), optional=True
      )
    ),
    'temporaries': compiled.memory_analysis().temp_size_in_bytes,
  }


if __name__ == '__main__':
  main()
