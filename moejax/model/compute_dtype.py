"""What `model.dtype=auto` stands for on a machine.

Accelerators multiply bfloat16 faster than float32. CPUs differ: with AMX or
AVX512-BF16, and a JAX that uses them, bfloat16 is several times as fast;
without it is slower. So on a CPU both are timed, once in a process.
"""

import functools
import statistics
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from moejax.core import resume
from moejax.model.config import DTYPES

# Rows, depth and width of the product that is timed: like that of an expert.
SHAPE = (1024, 512, 512)
ROUNDS = 20
# The rest of a step gains nothing from bfloat16, which rounds more. So float32
# is taken unless bfloat16 multiplies clearly faster.
CLEARLY = 1.3


def resolve(dtype: str, devices: Sequence[jax.Device]) -> str:
  """The name in DTYPES that a value of `model.dtype` stands for.

  Args:
    dtype: the value; auto stands for the type in which the devices multiply
      faster.
    devices: the devices that compute.
  """
  if dtype != resume.AUTO:
    return dtype
  if devices[0].platform != 'cpu':
    return 'bfloat16'
  return 'bfloat16' if cpu_gain() >= CLEARLY else 'float32'


@functools.cache
def cpu_gain() -> float:
  """Time of a product in float32 on this machine's CPU over that in bfloat16.

  The ratio of the medians over rounds in turn; takes under a second. The
  product asks for a float32 result, as those of the model do (core/linear.py).

  It is processor time, of all threads: the time on the clock would be wrong by
  more than CLEARLY while other jobs take the machine's cores. Now and then it
  leaves out what a thread has just done, which halves it, so that the best
  times cannot be compared.
  """
  rows, depth, width = SHAPE
  cpu = jax.local_devices(backend='cpu')[0]
  product = jax.jit(
    lambda x, w: jnp.matmul(x, w, preferred_element_type=jnp.float32)
  )
  seconds: dict[str, list[float]] = {name: [] for name in DTYPES}
  with jax.default_device(cpu):
    for number in range(ROUNDS + 1):
      for name, times in seconds.items():
        x, w = jnp.ones((rows, depth), name), jnp.ones((depth, width), name)
        begin = time.process_time()
        product(x, w).block_until_ready()
        if number:  # the first compiles
          times.append(time.process_time() - begin)
  in_float32, in_bfloat16 = (
    statistics.median(seconds[name]) for name in ('float32', 'bfloat16')
  )
  return in_float32 / in_bfloat16
