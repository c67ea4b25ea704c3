"""Devices, the speed of matrix products, and the self-check of experts.

  python -m moejax.doctor.machine devices matmul experts

`examine` runs it as a process of its own, and reads what it prints.
"""

import dataclasses
import functools
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp

from moejax.core import errors
from moejax.doctor import lines
from moejax.doctor.finding import BROKEN, MISSING, Finding
from moejax.model import compute_dtype
from moejax.moe import self_check
from moejax.moe.compute.implementations import IMPLEMENTATIONS
from moejax.moe.config import MoEConfig
from moejax.moe.dispatchers import DISPATCHERS
from moejax.moe.expert_parallel import EXPERT_PARALLEL
from moejax.parallel import mesh as meshes

DEVICES, MATMUL, EXPERTS = 'devices', 'matmul', 'experts'
# Type of the factors -> type of the product.
TYPES = {
  'float32': 'float32',
  'bfloat16': 'float32',
  'int8': 'int32',
  'float8_e4m3fn': 'float32',
}
# Factors are n x n: n is doubled from the first to the last, until a product
# takes LONG_S seconds.
SMALLEST, LARGEST = 256, 8192
LONG_S = 0.05
# Files that are there where an NVIDIA GPU and its driver are.
NVIDIA = (pathlib.Path('/dev/nvidia0'), pathlib.Path('/proc/driver/nvidia'))


def devices(
  found: Sequence[jax.Device], nvidia: bool, platforms: str
) -> Iterator[Finding]:
  """The devices that JAX computes on, with their memory.

  Args:
    found: JAX's devices of this process.
    nvidia: whether an NVIDIA GPU is there.
    platforms: JAX_PLATFORMS, which leaves devices out on purpose.
  """
  first = found[0]
  text = f'{len(found)} x {first.device_kind}'
  limit = (first.memory_stats() or {}).get('bytes_limit')
  if limit:
    text += f', {limit / 2**30:,.1f} GiB each'
  yield Finding(
    DEVICES, first.platform, text, value=float(len(found)), unit='devices'
  )
  if nvidia and first.platform == 'cpu' and not platforms:
    yield Finding(
      DEVICES,
      'gpu',
      'an NVIDIA GPU is there, and JAX computes on the CPU',
      MISSING,
      "pip install 'moejax[gpu]'",
    )


def speed(seconds_of: Callable[[int], float]) -> tuple[float, int]:
  """Operations per second of a product of two square matrices, and their size.

  The size is doubled until a product takes LONG_S, so that it is timed well.

  Args:
    seconds_of: size n -> seconds of one product, which has 2 n^3 operations.
  """
  n = SMALLEST
  while (seconds := seconds_of(n)) < LONG_S and n < LARGEST:
    n *= 2
  return 2 * n**3 / seconds, n


def _seconds(dtype: str, n: int) -> float:
  """Seconds of the fastest of three products of matrices of a type."""
  product = jax.jit(
    functools.partial(jnp.matmul, preferred_element_type=TYPES[dtype])
  )
  x = jnp.ones((n, n), dtype)
  times = []
  for _ in range(4):  # the first one compiles
    began = time.perf_counter()
    jax.block_until_ready(product(x, x))
    times.append(time.perf_counter() - began)
  return min(times[1:])


def matmuls(types: Mapping[str, str] = TYPES) -> Iterator[Finding]:
  """The speed of a matrix product in each type that runs."""
  for dtype in types:
    try:
      rate, n = speed(functools.partial(_seconds, dtype))
    except Exception as e:  # noqa: BLE001  # whatever the platform's compiler says
      words = str(e).split('\n')[0]
      text = f'does not run here ({type(e).__name__}: {words})'
      yield Finding(MATMUL, dtype, text, MISSING)
    else:
      text = f'{rate / 1e12:,.3f} TFLOP/s ({n} x {n})'
      yield Finding(MATMUL, dtype, text, value=rate, unit='FLOP/s')


def experts(found: Sequence[jax.Device]) -> Iterator[Finding]:
  """The self-check of each grouped matmul on one device, and of collectives."""
  dtype = compute_dtype.resolve('auto', found)
  one = meshes.make(meshes.MeshConfig(data=1), [found[0]])
  plain = MoEConfig(num_experts=8)
  for name in IMPLEMENTATIONS:
    config = dataclasses.replace(plain, grouped_matmul=name)
    platform = found[0].platform
    if IMPLEMENTATIONS[name].refuses(config, platform):
      capacity = DISPATCHERS['capacity']()
      config = dataclasses.replace(config, dispatcher=capacity)
    # The reference is what all others are compared with.
    if name != 'reference' and not IMPLEMENTATIONS[name].refuses(
      config, platform
    ):
      yield _checked(name, config, dtype, one)
  if len(found) == 1:
    text = 'one device has none'
    yield Finding(EXPERTS, 'collectives', text)
    return
  mesh = meshes.make(meshes.MeshConfig(data=1, expert=len(found)), [*found])
  plain = dataclasses.replace(plain, num_experts=2 * len(found))
  for name, kind in EXPERT_PARALLEL.items():
    config = dataclasses.replace(plain, expert_parallel=kind())
    yield _checked(name, config, dtype, mesh)


def _checked(
  name: str, config: MoEConfig, dtype: str, mesh: jax.sharding.Mesh
) -> Finding:
  try:
    worst = max(self_check.run(config, dtype, mesh).values())
  except errors.StoppedError as e:
    return Finding(EXPERTS, name, str(e), BROKEN)
  except errors.InputError as e:
    return Finding(EXPERTS, name, f'does not run here: {e}', MISSING)
  text = f'agrees with the reference to {worst:.1e} of its size in {dtype}'
  return Finding(EXPERTS, name, text, value=worst)


def _devices() -> Iterator[Finding]:
  nvidia = any(path.exists() for path in NVIDIA)
  platforms = os.environ.get('JAX_PLATFORMS', '')
  return devices(jax.local_devices(), nvidia, platforms)


PARTS: Mapping[str, Callable[[], Iterator[Finding]]] = {
  DEVICES: _devices,
  MATMUL: matmuls,
  EXPERTS: lambda: experts(jax.local_devices()),
}


def main(names: Sequence[str]) -> None:
  """Prints the findings of parts, and which part comes next."""
  for name in names:
    lines.begin(name)
    for finding in PARTS[name]():
      lines.end(finding.to_json())


if __name__ == '__main__':
  main(sys.argv[1:])
