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
from jax.experimental import topologies

from benchmarks import expert_parallel as benchmark
from benchmarks import standard
from moejax.model.config import ModelConfig
from moejax.moe.config import MoEConfig
from moejax.moe.expert_parallel import EXPERT_PARALLEL
from moejax.parallel import collective_bytes
from moejax.parallel import mesh as meshes

# What XLA must know of an H200 to compile for it.
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  memory_bandwidth: 4800000000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 151397597184
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  device_vendor: "NVIDIA Corporation"
  name: "NVIDIA H200 141GB HBM3e"
  driver_version: "13.0.0"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
  device_address_bits: 64
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H200 141GB HBM3e"
"""


def main() -> None:
  reports = [_case(**case) for case in json.loads(sys.argv[1])]
  sys.stdout.write(json.dumps(reports))


def _gpus(number):
  shape = f'1x1x{number}'  # slices, hosts, GPUs of a host
  return topologies.get_topology_desc(
    platform='cuda', topology_name=shape, topology=shape, target_config=H200
  ).devices


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
