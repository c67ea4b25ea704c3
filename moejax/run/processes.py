r"""The processes of a run: the flags of a command, joining, and the end.

  moejax train --config=... --workdir=/shared/run \
    --coordinator=node0:9876 --num-processes=2 --process-id=0   (and =1)

On TPU pods, Slurm, indexed Kubernetes jobs and Open MPI these flags are not
needed: they are read from the environment. Process 0 alone shows progress and
writes files; the others print errors only, with their number in front.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping

import jax

from moejax.config import Run
from moejax.core import config_tree, errors, exits, terminal, versions
from moejax.parallel import group as groups
from moejax.parallel import processes
from moejax.parallel.group import SINGLE, Group, Place

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
# Seconds between an unexpected error and the end of the process. A lost process
# makes a collective of the others fail, perhaps before the watch knows which
# process it was; meanwhile the watch may end this one with its name.
FIND_OUT_S = 4.0


@dataclasses.dataclass(frozen=True)
class Flags:
  """The flags on several processes.

  Attributes:
    coordinator: host:port of process 0; '' to be detected.
    num_processes: number of processes of the run; None to be detected.
    process_id: number of this process, from 0; None to be detected.
    detect: whether the environment is searched for the values that are missing.
    join_s: how long to wait until all processes have joined, in seconds.
    silence_s: after so many seconds without a sign a process counts as lost.
  """

  coordinator: str = ''
  num_processes: int | None = None
  process_id: int | None = None
  detect: bool = True
  join_s: float = 300.0
  silence_s: float = 60.0


def add_flags(flags: argparse.ArgumentParser) -> None:
  """Adds the flags of `Flags`."""
  default = Flags()
  add = flags.add_argument_group('several processes').add_argument
  add('--coordinator', default='', help='host:port of process 0')
  add('--num-processes', type=int, help='how many processes there are')
  add('--process-id', type=int, help='the number of this one, from 0')
  add(
    '--distributed',
    choices=('auto', 'off'),
    default='auto',
    help='off: do not look for other processes in the environment',
  )
  add(
    '--join-timeout',
    type=float,
    default=default.join_s,
    help='seconds to wait for all processes (default: %(default)s)',
  )
  add(
    '--host-timeout',
    type=float,
    default=default.silence_s,
    help='a process silent for so many seconds is lost (default: %(default)s)',
  )


def read_flags(args: argparse.Namespace) -> Flags:
  """Makes `Flags` of a parsed command line."""
  return Flags(
    coordinator=args.coordinator,
    num_processes=args.num_processes,
    process_id=args.process_id,
    detect=args.distributed == 'auto',
    join_s=args.join_timeout,
    silence_s=args.host_timeout,
  )


def find(
  flags: Flags, environment: Mapping[str, str] = os.environ
) -> Place | None:
  """The place of this process in a run of several; None if it is alone.

  Args:
    flags: the flags on several processes.
    environment: environment variables.

  Raises:
    InputError: the flags contradict each other, or some are missing.
  """
  if flags.join_s <= 0 or flags.silence_s <= 0:
    raise errors.InputError(
      f'--join-timeout={flags.join_s:g} and --host-timeout={flags.silence_s:g} '
      'must be more than 0 seconds'
    )
  coordinator = flags.coordinator
  count, index = flags.num_processes, flags.process_id
  if flags.detect:
    coordinator = coordinator or environment.get(COORDINATOR, '')
  if not coordinator:
    if (count, index) != (None, None):
      raise errors.InputError(
        '--num-processes and --process-id need --coordinator=host:port, where '
        'process 0 is'
      )
    return _detected(flags, environment) if flags.detect else None
  if flags.detect:
    detected_count, detected_index = _numbers(environment)
    count = detected_count if count is None else count
    index = detected_index if index is None else index
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
  """The number of processes and that of this one; None where not set."""
  for names in ENVIRONMENTS.values():
    count, index = (environment.get(name, '') for name in names)
    if count.isdecimal() and index.isdecimal():
      return int(count), int(index)
  return None, None


def _detected(flags: Flags, environment: Mapping[str, str]) -> Place | None:
  """The place of this process as JAX reads it from a cluster; None if alone."""
  try:
    return groups.detect(flags.join_s)
  except Exception as e:  # noqa: BLE001 (whatever a cluster's interface raises)
    if 'KUBERNETES_SERVICE_HOST' in environment and (
      'JOB_COMPLETION_INDEX' not in environment
    ):
      return None  # a single pod, not one of an indexed job
    line = str(e).splitlines()[0] if str(e) else type(e).__name__
    raise errors.InputError(
      f'this looks like a cluster, but its processes cannot be found ({line}); '
      'give --coordinator, --num-processes and --process-id, or '
      '--distributed=off for a run of this process alone'
    ) from None


@dataclasses.dataclass(frozen=True)
class Processes:
  """The processes of a run; by default this one is alone.

  Attributes:
    group: barriers, votes and values that the processes share.
    watch: ends this process when another one is lost; None if it is alone.
  """

  group: Group = SINGLE
  watch: processes.Watch | None = None

  @property
  def main(self) -> bool:
    """Whether this is process 0, which shows progress and writes files."""
    return self.group.index == 0

  @contextlib.contextmanager
  def guard(self) -> Iterator[None]:
    """Ends all processes when an error is raised inside.

    The reason is sent to the others, and this process ends at once: closing
    what it holds open, such as a checkpoint, could wait for the others for
    ever. An interruption passes, because all processes are interrupted after
    the same step.
    """
    try:
      yield
    except errors.InterruptedRunError:
      raise  # in every process
    except BaseException as error:  # also Ctrl-C
      if self.watch is None:
        raise
      ending = exits.ending(error)
      if ending is None:
        time.sleep(FIND_OUT_S)  # if a process is lost, this one ends here
        text = ''.join(traceback.format_exception(error))
        ending = exits.BUG, f'{text}a bug: {type(error).__name__}: {error}'
      code, line = ending
      self.watch.fail(line.splitlines()[-1], code)
      _leave(self.group.index, line, code)

  def end(self) -> None:
    """Waits until all processes are done; then each may end at any time."""
    self.group.barrier('the end')
    if self.watch is not None:
      self.watch.close()
    jax.distributed.shutdown()


ALONE = Processes()


@contextlib.contextmanager
def joined(flags: Flags, run: Run) -> Iterator[Processes]:
  """Joins the other processes, if there are any; waits for them at the end.

  A process that cannot join prints the reason and ends at once, without an
  exception.

  Args:
    flags: the flags on several processes.
    run: the config, which must be the same in all.

  Yields:
    The processes of the run.

  Raises:
    InputError: the flags contradict each other, or some are missing.
    InterruptedRunError: as raised inside, in process 0 alone; the others end
      with its exit code.
  """
  place = find(flags)
  if place is None:
    yield ALONE
    return
  index = place.index
  until = time.monotonic() + flags.join_s
  try:
    members = processes.meet(place, flags.join_s, _about(run), terminal.say)
  except (errors.InputError, errors.LostHostError) as error:
    code, line = exits.ending(error) or (exits.BUG, str(error))
    _leave(index, line, code)
  watch = processes.Watch(
    members,
    flags.silence_s,
    lambda line, code: _leave(index, f'lost: {line}', code),
  )
  group = groups.start(
    place, members.names, until - time.monotonic(), flags.silence_s
  )
  # In every process: listing devices waits for those of all the others.
  line = _devices_line()
  here = Processes(group, watch)
  if here.main:
    terminal.say(line)
  try:
    with here.guard():
      yield here
      here.end()
  except errors.InterruptedRunError as error:
    with here.guard():
      here.end()
    if here.main:
      raise
    code, line = exits.ending(error) or (exits.BUG, str(error))
    _leave(index, line, code)


def _leave(index: int, line: str, code: int) -> None:
  """Prints a line to standard error and ends the process at once."""
  front = f'process {index}: ' if index else ''
  with terminal.outlived():
    sys.stdout.flush()
  with terminal.outlived():
    terminal.note(front + line)
  os._exit(code)


def _about(run: Run) -> dict[str, str]:
  """By name, values that must be the same in all processes."""
  text = json.dumps(config_tree.to_dict(run), sort_keys=True)
  return {
    'the config (a checksum)': hashlib.sha256(text.encode()).hexdigest()[:12],
    'moejax': versions.version('moejax') or 'not installed',
    'jax': jax.__version__,
    'python': '.'.join(platform.python_version_tuple()[:2]),
  }


def _devices_line() -> str:
  """A line on the number of devices of each process."""
  by_process = Counter(device.process_index for device in jax.devices())
  counts = [by_process[index] for index in range(jax.process_count())]
  kind = jax.devices()[0].device_kind
  if len({*counts}) == 1:
    each = f'{counts[0]} each'
  else:
    each = ', '.join(f'{n} in process {i}' for i, n in enumerate(counts))
  return f'All {len(counts)} are here: {sum(counts)} {kind} devices, {each}.'
