"""GPUS: peak rates of GPUs by name, and what XLA must know of a card.

Peak, memory bandwidth, NVLink and network are the vendor's published figures
for one GPU (NVIDIA, data sheets of DGX H100, DGX H200, DGX B200 and GB200
NVL72): dense bfloat16, without sparsity; NVLink in one direction; one network
card of 400 Gbit/s. Cores, clocks, caches and bytes of memory are those that
the cards report. Nothing here was measured.

XLA compiles for a card that is not there if it is told its properties, as a
text protobuf (`GpuTargetConfigProto` of OpenXLA). Only those are named that the
compiler of JAX 0.12 reads for matrix products and fusions. It is not told of
NVLink: for the largest number of 64 GPUs it would write a kernel of its own in
place of NCCL's, and ends the process while it does ("size mismatch when packing
elements", JAX 0.12.0.1).
"""

import dataclasses

from moejax.plan.chips import Chip

# Of all cards since Hopper, by the CUDA programming guide's table of compute
# capabilities.
_COMMON = {
  'threads_per_block_limit': 1024,
  'threads_per_warp': 32,
  'threads_per_core_limit': 2048,
  'shared_memory_per_block': 48 * 2**10,
  'shared_memory_per_block_optin': 227 * 2**10,
  'shared_memory_per_core': 228 * 2**10,
  'registers_per_block_limit': 2**16,
  'registers_per_core_limit': 2**16,
  'fpus_per_core': 128,
  'thread_dim_limit_x': 1024,
  'thread_dim_limit_y': 1024,
  'thread_dim_limit_z': 64,
  'block_dim_limit_x': 2**31 - 1,
  'block_dim_limit_y': 2**16 - 1,
  'block_dim_limit_z': 2**16 - 1,
  'device_address_bits': 64,
}
# Versions that the compiler may count on; it loads none of these libraries.
_CUDA, _CUDNN = '13.0.0', (9, 10)


@dataclasses.dataclass(frozen=True)
class Gpu:
  """A kind of GPU.

  Attributes:
    chip: its peak rates. `ici_bandwidth` is NVLink's, `dcn_bandwidth` that of
      its network card.
    joined: the most GPUs that NVLink joins.
    cores: streaming multiprocessors.
    capability: the major number of its compute capability.
    clock: GHz of the cores.
    cache: bytes of the second-level cache.
  """

  chip: Chip
  joined: int
  cores: int
  capability: int
  clock: float
  cache: int

  def target(self) -> str:
    """The card's properties as XLA's text protobuf."""
    chip = self.chip
    fields = {
      **_COMMON,
      'core_count': self.cores,
      'clock_rate_ghz': self.clock,
      'memory_bandwidth': int(chip.hbm_bandwidth),
      'device_memory_size': int(chip.hbm),
      'l2_cache_size': self.cache,
    }
    texts = {
      'name': chip.kind,
      'driver_version': _CUDA,
      'runtime_version': _CUDA,
      'compile_time_toolkit_version': _CUDA,
    }
    lines = [f'{key}: {value}' for key, value in fields.items()]
    lines += [f'{key}: "{value}"' for key, value in texts.items()]
    return '\n'.join([
      'gpu_device_info {',
      *lines,
      'cuda_compute_capability {',
      f'major: {self.capability}',
      'feature_extension: ACCELERATED_FEATURES',
      '}',
      '}',
      'platform_name: "CUDA"',
      f'dnn_version_info {{ major: {_CUDNN[0]} minor: {_CUDNN[1]} }}',
      f'device_description_str: "{chip.kind}"',
    ])


# FLOPs of the matrix units of a core in a cycle, bfloat16.
_HOPPER, _BLACKWELL = 4096, 8192
_NETWORK = 50e9  # 400 Gbit/s

GPUS: dict[str, Gpu] = {
  'h100': Gpu(
    Chip(
      'NVIDIA H100 80GB HBM3', 989e12, 84942979072, 3.35e12, 450e9,
      132 * _HOPPER, 1, _NETWORK,
    ),
    joined=8, cores=132, capability=9, clock=1.98, cache=50 * 2**20,
  ),
  'h200': Gpu(
    Chip(
      'NVIDIA H200', 989e12, 151397597184, 4.8e12, 450e9,
      132 * _HOPPER, 1, _NETWORK,
    ),
    joined=8, cores=132, capability=9, clock=1.98, cache=50 * 2**20,
  ),
  # 18 PFLOP/s of eight.
  'b200': Gpu(
    Chip(
      'NVIDIA B200', 2250e12, 191514411008, 8e12, 900e9,
      148 * _BLACKWELL, 1, _NETWORK,
    ),
    joined=8, cores=148, capability=10, clock=1.965, cache=132644864,
  ),
  # 180 PFLOP/s of 72.
  'gb200': Gpu(
    Chip(
      'NVIDIA GB200', 2500e12, 197897748480, 8e12, 900e9,
      152 * _BLACKWELL, 1, _NETWORK,
    ),
    joined=72, cores=152, capability=10, clock=2.062, cache=135528448,
  ),
}  # fmt: skip
