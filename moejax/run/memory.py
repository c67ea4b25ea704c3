"""Refuses a run that no memory holds, before anything is packed or compiled.

Without compiling, only a lower bound is known: the weights with the moments of
AdamW, and the input of every layer, which the backward pass needs whatever is
computed again. A run above the bound would end in an error of the allocator, or
be killed by the system without a word. `moejax plan` compiles the
step and says all that it needs.
"""

import pathlib
import re

import jax.numpy as jnp
from jax.sharding import Mesh

from moejax.config import Run
from moejax.core import errors, resume, trees
from moejax.model import build
from moejax.plan import count
from moejax.train import lora, parts

MEMINFO = pathlib.Path('/proc/meminfo')  # of Linux


def check(run: Run, model: build.Model, num_processes: int = 1) -> None:
  """Compares the least memory of a run with that of all its devices.

  Args:
    run: the config, with the compute type of its model.
    model: its model.
    num_processes: the processes of the run. Each is taken to have all of its
      machine's memory.

  Raises:
    DoesNotFitError: the devices have less. The message has both numbers.
  """
  num_bytes = available(model.mesh, num_processes)
  num_weights = trees.count(model.shapes)
  learner = lora.learner(model, run.train.lora)
  frozen = parts.frozen(run.opt.parts, learner.decays)
  num_frozen = sum(
    leaf.size for p, leaf in trees.leaves(learner.shapes).items() if p in frozen
  )
  num_trained = trees.count(learner.shapes) - num_frozen
  rows = run.train.batch_size // run.train.micro_batches
  length, layers = run.data.sequence_length, run.model.num_layers
  state = num_trained * count.BYTES_PER_PARAMETER
  kinds = f'{num_trained:,} parameters of {count.BYTES_PER_PARAMETER} bytes'
  if learner is not model:
    state += num_weights * count.BYTES_FROZEN
    kinds += f', {num_weights:,} of {count.BYTES_FROZEN}'
  if num_frozen:  # without moments
    state += num_frozen * count.BYTES_FROZEN
    kinds += f', {num_frozen:,} frozen ones of {count.BYTES_FROZEN}'
  inputs = rows * length * run.model.width * layers
  # A workdir may have a type that was not chosen yet: no type has less than two
  # bytes.
  chosen = run.model.dtype != resume.AUTO
  inputs *= jnp.dtype(run.model.dtype).itemsize if chosen else 2
  if num_bytes is None or state + inputs <= num_bytes:
    return
  devices = model.mesh.devices
  raise errors.DoesNotFitError(
    f"the weights and AdamW's moments take {_gib(state)} ({kinds}), "
    'and the inputs of '
    f'{layers} layers at least {_gib(inputs)} ({rows:,} rows of {length:,} '
    f'tokens); {devices.size} {devices.flat[0].platform} '
    f'device{"s have" if devices.size > 1 else " has"} {_gib(num_bytes)}. Take '
    'a smaller model, train.batch_size or data.sequence_length, more '
    'train.micro_batches, or more devices; moejax plan says what '
    'fits'
  )


def available(mesh: Mesh, num_processes: int) -> int | None:
  """Bytes of memory of all devices of a mesh; None if not known."""
  devices = mesh.local_devices
  if devices[0].platform == 'cpu':
    num_bytes = _of_this_machine()
    return None if num_bytes is None else num_bytes * num_processes
  limits: list[int] = []
  for device in devices:
    limit = (device.memory_stats() or {}).get('bytes_limit')
    if limit is None:
      return None
    limits.append(limit)
  return max(limits) * mesh.devices.size


def _of_this_machine() -> int | None:
  """Bytes of memory and swap space; None on other systems than Linux."""
  if not MEMINFO.exists():
    return None
  found = re.findall(r'(?:Mem|Swap)Total: +(\d+) kB', MEMINFO.read_text())
  return 1024 * sum(map(int, found)) or None


def _gib(num_bytes: int) -> str:
  return f'{num_bytes / 2**30:,.1f} GiB'
