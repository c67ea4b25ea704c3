"""Devices of a named topology, to compile for; they need not exist here.

  v5p:4x4x4   64 chips of a TPU slice, through libtpu, on any machine
  h200:8x4    4 hosts of 8 GPUs, through JAX's CUDA plug-in, on any machine
  cpu:8       8 fake devices of this machine's CPU

Several TPU slices are connected by the network of the data centre, and so are
groups of GPUs: the first number is that of GPUs that NVLink joins.
"""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import re

import jax
from jax.experimental import topologies

from moejax.core import errors, table
from moejax.plan.chips import CHIPS, Chip
from moejax.plan.gpus import GPUS

CPU = 'cpu'
_FLAG = '--xla_force_host_platform_device_count'
EXAMPLES = 'v5e:4x4, v5p:4x4x4, h200:8, h100:8x4 or cpu:8'


@dataclasses.dataclass(frozen=True)
class Slice:
  """Devices to compile for, of one or several slices.

  Attributes:
    name: the name of the topology; '2 x v5p:4x4x4' for two slices.
    devices: all devices, in JAX's order.
    chips: number of chips; some kinds of chip have two devices.
    chip: peak rates of one DEVICE; None for CPU, whose rates are not known.
    memory: bytes of one device. Fake devices share the machine's memory.
    slices: number of slices.
  """

  name: str
  devices: tuple[jax.Device, ...]
  chips: int
  chip: Chip | None
  memory: float
  slices: int = 1


def find(name: str, slices: int = 1) -> Slice:
  """The devices of a topology.

  Args:
    name: kind and shape of one slice, such as 'v5p:4x4x4'; 'h200:8x4'; or
      'cpu:8'.
    slices: number of TPU slices.

  Raises:
    InputError: no such kind or shape, or libtpu or the CUDA plug-in is not
      installed.
  """
  # Nothing is computed, so no TPU or GPU of this machine should be claimed.
  if not jax.config.jax_platforms:
    jax.config.update('jax_platforms', 'cpu')
  kind, _, shape = name.partition(':')
  if kind not in CHIPS and slices != 1:
    raise errors.InputError(
      f'--slices={slices} of {name}: only TPU slices can be several; hosts of '
      'GPUs are counted behind the x, as in h100:8x4'
    )
  if kind == CPU:
    return _cpu(name, shape)
  if kind in GPUS:
    return _gpu(name, kind, shape)
  if kind not in CHIPS:
    raise table.unknown('topology', kind, [*CHIPS, *GPUS, CPU])
  if not re.fullmatch(r'\d+(x\d+)*', shape):
    raise errors.InputError(
      f'--topology={name} has no shape; use {EXAMPLES}, say'
    )
  chips = math.prod(int(n) for n in shape.split('x')) * slices
  devices = _tpu(name, slices)
  if not chips or len(devices) % chips:
    raise errors.InputError(
      f'--topology={name}: {chips} chips, but {len(devices)} devices'
    )
  chip = CHIPS[kind].split(len(devices) // chips)
  full_name = name if slices == 1 else f'{slices} x {name}'
  return Slice(full_name, devices, chips, chip, chip.hbm, slices)


def _tpu(name: str, slices: int) -> tuple[jax.Device, ...]:
  if importlib.util.find_spec('libtpu') is None:
    raise errors.InputError(
      f'--topology={name} needs libtpu, which is not installed; '
      "pip install 'moejax[tpu]' (Linux; no TPU is needed), or use cpu:8"
    )
  # libtpu must not query the metadata server of a TPU machine: there is none.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  # No TPU will be used, so several plans may be made at a time.
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  kinds = ', '.join(CHIPS)
  try:
    description = topologies.get_topology_desc(
      platform='tpu', topology_name=name, num_slices=slices
    )
  except Exception as e:  # noqa: BLE001 (it depends on the version)
    why = ' '.join(str(e).split())[:200]
    raise errors.InputError(
      f'--topology={name} is no TPU slice ({why}); kinds are {kinds}, with '
      f'chips along each side of the slice: {EXAMPLES}'
    ) from None
  return tuple(description.devices)


def _gpu(name: str, kind: str, shape: str) -> Slice:
  gpu = GPUS[kind]
  match = re.fullmatch(r'([1-9]\d*)(?:x([1-9]\d*))?', shape)
  if match is None:
    raise errors.InputError(
      f'--topology={name} must be {kind}:<GPUs of a host>, or {kind}:<GPUs of '
      f'a host>x<hosts>: {kind}:8x4'
    )
  joined, groups = int(match[1]), int(match[2] or 1)
  if joined > gpu.joined:
    hosts = -(-joined // gpu.joined)
    raise errors.InputError(
      f'--topology={name}: NVLink joins at most {gpu.joined} of {kind}; use '
      f'{kind}:{gpu.joined}x{hosts * groups}'
    )
  try:
    version = importlib.metadata.version('jax-cuda13-plugin')
  except importlib.metadata.PackageNotFoundError:
    raise errors.InputError(
      f"--topology={name} needs JAX's CUDA plug-in, which is not installed; "
      "pip install 'moejax[gpu_plan]' (Linux; no GPU is needed), or use cpu:8"
    ) from None
  if version != jax.__version__:
    raise errors.InputError(
      f'--topology={name}: the CUDA plug-in has version {version} and jax '
      f'{jax.__version__}; pip install jax-cuda13-plugin=={jax.__version__} '
      f'jax-cuda13-pjrt=={jax.__version__}'
    )
  # The plug-in looks for NVIDIA's libraries, which only a real card needs.
  os.environ.setdefault('JAX_SKIP_CUDA_CONSTRAINTS_CHECK', '1')
  # Slices x hosts x GPUs of a host.
  sizes = f'1x{groups}x{joined}'
  description = topologies.get_topology_desc(
    platform='cuda',
    topology_name=sizes,
    topology=sizes,
    target_config=gpu.target(),
  )
  devices = tuple(description.devices)
  return Slice(name, devices, len(devices), gpu.chip, gpu.chip.hbm)


def _cpu(name: str, shape: str) -> Slice:
  if not re.fullmatch(r'[1-9]\d*', shape):
    raise errors.InputError(f'--topology={name} must be cpu:<devices>: cpu:8')
  number = int(shape)
  if _FLAG not in os.environ.get('XLA_FLAGS', ''):
    # Raises if the CPU backend exists already, with a fixed number of devices.
    with contextlib.suppress(RuntimeError):
      jax.config.update('jax_num_cpu_devices', number)
  devices = jax.devices(CPU)
  if len(devices) < number:
    raise errors.InputError(
      f'--topology={name}: this process has {len(devices)} CPU devices; set '
      f'XLA_FLAGS={_FLAG}={number}'
    )
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  return Slice(name, tuple(devices[:number]), number, None, memory / number)
