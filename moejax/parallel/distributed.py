"""Joins the processes of a run: who am I, who else is there, then JAX.

Stages of `join`:
  1. Find the place: from flags, or from the environment (`ENVIRONMENTS`, and
     JAX's own detection of TPU pods, Slurm, Kubernetes and Open MPI). Without
     either the process is alone, and has waited for nothing.
  2. Meet: process 0 listens on the coordinator's port, the others knock until
     it opens. Whoever has not come by the deadline is named, in every process.
     All must run the same code and config, which is compared.
  3. `jax.distributed.initialize`, whose service takes the same port. It is only
     called once all are there: its own time-out would end each process with a
     stack of C++ and no number.

From then on a `group.Group` watches over the links made in stage 2.
"""

import ctypes
import dataclasses
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax._src import clusters  # there is no public way only to ask

from moejax.core import errors
from moejax.parallel import group, lobby
from moejax.parallel.lobby import Place

# With --coordinator alone, the count and number of this process are read from
# the first pair that is set.
ENVIRONMENTS = {
  'JAX': ('JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'),
  'Slurm': ('SLURM_NTASKS', 'SLURM_PROCID'),
  'Open MPI': ('OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK'),
  'MPICH, Intel MPI': ('PMI_SIZE', 'PMI_RANK'),
}
# Set by launchers that tell every process where process 0 is.
COORDINATOR = 'JAX_COORDINATOR_ADDRESS'


@dataclasses.dataclass(frozen=True)
class Flags:
  """What the command line says.

  Attributes:
    coordinator: host:port of process 0; '' to be detected.
    num_processes: of the run; None to be detected.
    process_id: of this process, from 0; None to be detected.
    detect: whether to look at the environment.
    join_s: how long to wait for all to come.
    silence_s: a process that says nothing for so long is lost.
  """

  coordinator: str = ''
  num_processes: int | None = None
  process_id: int | None = None
  detect: bool = True
  join_s: float = 300.0
  silence_s: float = 60.0


def find(
  flags: Flags, environment: Mapping[str, str] = os.environ
) -> Place | None:
  """The place of this process in a run of several; None if it is alone.

  Raises:
    InputError: flags that do not fit together, or are not enough.
  """
  if flags.join_s <= 0 or flags.silence_s <= 0:
    raise errors.InputError(
      f'--join-timeout={flags.join_s:g} and --host-timeout={flags.silence_s:g} '
      'must be more than 0 seconds'
    )
  coordinator = flags.coordinator
  if flags.detect:
    coordinator = coordinator or environment.get(COORDINATOR, '')
  given = flags.num_processes, flags.process_id
  if not coordinator:
    if given != (None, None):
      raise errors.InputError(
        '--num-processes and --process-id need --coordinator=host:port, where '
        'process 0 is'
      )
    return _detected(flags, environment) if flags.detect else None
  count, index = given
  if None in given and flags.detect:
    found = _numbers(environment)
    count, index = (
      f if g is None else g for g, f in zip(given, found, strict=True)
    )
  if count is None or index is None:
    raise errors.InputError(
      f'--coordinator={coordinator} also needs --num-processes and '
      '--process-id: the environment does not tell them'
    )
  if not 0 <= index < count:
    raise errors.InputError(
      f'--process-id={index} must be from 0 to {count - 1}, with '
      f'--num-processes={count}'
    )
  place = Place(coordinator, count, index)
  return place if place.address and count > 1 else None


def _numbers(environment: Mapping[str, str]) -> tuple[int | None, int | None]:
  for names in ENVIRONMENTS.values():
    values = [environment.get(name, '') for name in names]
    if all(value.isdecimal() for value in values):
      return int(values[0]), int(values[1])
  return None, None


def _detected(flags: Flags, environment: Mapping[str, str]) -> Place | None:
  """What JAX makes of the environment; it asks no network but on a TPU."""
  try:
    with warnings.catch_warnings(action='ignore'):
      coordinator, count, index, devices = (
        clusters.ClusterEnv.auto_detect_unset_distributed_params(
          None, None, None, None, None, int(flags.join_s)
        )
      )
  except Exception as e:  # noqa: BLE001 (whatever a cluster's interface raises)
    if 'KUBERNETES_SERVICE_HOST' in environment and (
      'JOB_COMPLETION_INDEX' not in environment
    ):
      return None  # a pod of its own, not of an indexed job
    line = str(e).splitlines()[0] if str(e) else type(e).__name__
    raise errors.InputError(
      f'this looks like a cluster, but its processes cannot be found ({line}); '
      'give --coordinator, --num-processes and --process-id, or '
      '--distributed=off for a run of this process alone'
    ) from None
  if coordinator is None or None in (count, index) or count == 1:
    return None
  local = None if devices is None else tuple(devices)
  return Place(coordinator, count, index, local)


@dataclasses.dataclass(frozen=True)
class Ways:
  """How the joined process speaks.

  Attributes:
    say: shows a line of progress, in process 0.
    leave: is given the line and the exit code when another process is lost; it
      ends this one and does not return.
  """

  say: Callable[[str], None]
  leave: Callable[[str, int], None]


def join(
  place: Place, flags: Flags, about: dict[str, str], ways: Ways
) -> group.Group:
  """Waits for all processes and starts JAX's service among them.

  To be called before anything asks for devices.

  Args:
    place: of this process.
    flags: the deadlines.
    about: what must be the same in all processes, such as versions.
    ways: see there.

  Raises:
    LostHostError: somebody did not come; it names who.
    InputError: the processes do not fit together.
  """
  until = time.monotonic() + flags.join_s
  if place.index == 0:
    members = lobby.receive(place, flags.join_s, about, ways.say)
  else:
    members = lobby.knock(place, flags.join_s, about)
  joined = group.Group(members, flags.silence_s, ways.leave)
  _let_the_line_out()
  jax.distributed.initialize(
    place.coordinator,
    place.count,
    place.index,
    place.local_devices,
    cluster_detection_method='deactivate',
    initialization_timeout=int(max(30, until - time.monotonic())),
    # Ours is to be the first to notice, and to say it in one line.
    heartbeat_timeout_seconds=int(max(100, 3 * flags.silence_s)),
    shutdown_timeout_seconds=int(max(10, flags.silence_s)),
  )
  line = _devices_line()  # in all: they tell each other what devices they have
  if place.index == 0:
    ways.say(line)
  return joined


def leave(joined: group.Group) -> None:
  """The orderly end: all are done."""
  joined.close()
  jax.distributed.shutdown()


def _devices_line() -> str:
  """How many devices each process has."""
  by_process: dict[int, list[Any]] = {}
  for device in jax.devices():
    by_process.setdefault(device.process_index, []).append(device)
  counts = [len(by_process.get(i, ())) for i in range(jax.process_count())]
  kind = jax.devices()[0].device_kind
  if len({*counts}) == 1:
    each = f'{counts[0]} each'
  else:
    each = ', '.join(f'{n} in process {i}' for i, n in enumerate(counts))
  return f'All {len(counts)} are here: {sum(counts)} {kind} devices, {each}.'


def _let_the_line_out() -> None:
  """Gives our thread time to say which process is lost.

  When process 0 goes, JAX's client calls abort(), some milliseconds before or
  after our link closes. So SIGABRT (number 6) first calls C's sleep(6), and
  only then ends the process; by then our thread has said it and ended it.
  """
  if threading.current_thread() is not threading.main_thread():
    return
  libc = ctypes.CDLL(None)
  libc.signal.restype = ctypes.c_void_p
  libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
  sleep = ctypes.cast(libc.sleep, ctypes.c_void_p)
  libc.signal(int(signal.SIGABRT), sleep)
