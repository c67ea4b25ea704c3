"""The accelerators of this machine, divided among the processes of a sweep.

Devices are counted without JAX: a sweep that asked for them itself would hold
them. A single process gets no variable and uses what JAX finds.
"""

import dataclasses
import glob
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from moejax.core import errors

T = TypeVar('T')
PLATFORMS = 'JAX_PLATFORMS'
PREALLOCATE = 'XLA_PYTHON_CLIENT_PREALLOCATE'


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of accelerator.

  Attributes:
    platforms: the words of JAX_PLATFORMS that stand for it.
    variable: environment variable that lists the devices of a process.
    files: patterns of the files that the system has for devices, one for each.
    shared: whether several processes can use one device.
    more: further variables of a process that has one device of several.
  """

  platforms: tuple[str, ...]
  variable: str
  files: tuple[str, ...]
  shared: bool
  more: Mapping[str, str] = dataclasses.field(default_factory=dict)


# By the word for one of them. A host of TPUs with libtpu has /dev/accel0 or,
# on newer ones, /dev/vfio/0; the variables are those of JAX's documentation on
# several processes on one host.
KINDS: Mapping[str, Kind] = {
  'GPU': Kind(
    ('cuda', 'gpu'), 'CUDA_VISIBLE_DEVICES', ('/dev/nvidia[0-9]*',), True
  ),
  'TPU chip': Kind(
    ('tpu',),
    'TPU_VISIBLE_CHIPS',
    ('/dev/accel[0-9]*', '/dev/vfio/[0-9]*'),
    False,
    {
      'TPU_CHIPS_PER_PROCESS_BOUNDS': '1,1,1',
      'TPU_PROCESS_BOUNDS': '1,1,1',
    },
  ),
}


def environments(
  processes: int,
  environ: Mapping[str, str] = os.environ,
  find: Callable[[str], Sequence[str]] = glob.glob,
) -> list[dict[str, str]]:
  """Environment variables of each process, beside those of this one.

  Example, four processes:
    8 GPUs: CUDA_VISIBLE_DEVICES=0,1 and 2,3 and 4,5 and 6,7
    2 GPUs: 0 and 0 and 1 and 1, without memory that is taken in advance
    4 TPU chips: TPU_VISIBLE_CHIPS=0 and 1 and 2 and 3

  Args:
    processes: how many run at a time.
    environ: the variables of this process.
    find: the files of a pattern.

  Raises:
    InputError: more processes than devices of a kind that takes one process.
  """
  nothing: list[dict[str, str]] = [{} for _ in range(processes)]
  wanted = set(filter(None, environ.get(PLATFORMS, '').split(',')))
  for word, kind in KINDS.items():
    devices = _devices(kind, environ, find)
    unwanted = wanted and not wanted & {*kind.platforms}
    if processes == 1 or not devices or unwanted:
      continue
    if kind.shared:
      parts = shares(processes, devices)
    elif processes <= len(devices):
      parts = [[device] for device in devices[:processes]]
    else:
      raise errors.InputError(
        f'--processes={processes}, and this machine has {len(devices)} x '
        f'{word}, each of which takes one process; use '
        f'--processes={len(devices)} or fewer'
      )
    more = dict(kind.more)
    if len(devices) < processes and PREALLOCATE not in environ:
      # By default the first process takes three quarters of the memory.
      more[PREALLOCATE] = 'false'
    return [{kind.variable: ','.join(part), **more} for part in parts]
  return nothing


def _devices(
  kind: Kind,
  environ: Mapping[str, str],
  find: Callable[[str], Sequence[str]],
) -> list[str]:
  """Numbers of the devices, as the variable has them."""
  if kind.variable in environ:
    return [word for word in environ[kind.variable].split(',') if word]
  for pattern in kind.files:
    if found := find(pattern):
      return [str(number) for number in range(len(found))]
  return []


def shares(processes: int, among: Sequence[T]) -> list[list[T]]:
  """The part of each process: neighbours, shared only if they are too few.

  Example:
    2 processes, cores 0 1 2 3 4: [[0, 1], [2, 3, 4]]
    3 processes, cores 0 1: [[0], [0], [1]]
  """
  bounds = [i * len(among) // processes for i in range(processes + 1)]
  return [
    list(among[first : max(first + 1, last)])
    for first, last in zip(bounds, bounds[1:], strict=False)
  ]


def cores() -> list[int]:
  """The cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))
