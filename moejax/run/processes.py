r"""A run of several processes, as a command sees it: flags, and how it ends.

  python -m moejax.main --config=... --workdir=/shared/run \
    --coordinator=node0:9876 --num-processes=2 --process-id=0   (and =1)

On TPU pods, Slurm, indexed Kubernetes jobs and Open MPI these flags are not
needed: the environment tells. Process 0 alone shows progress and writes; the
others write errors only, with their number in front.
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
from collections.abc import Iterator

import jax

from moejax.config import Run
from moejax.core import config_tree, errors, exits, files, terminal
from moejax.parallel import alone, distributed
from moejax.parallel import group as groups

# A collective fails when a process is gone, perhaps before we know which.
FIND_OUT_S = 4.0


def add_flags(flags: argparse.ArgumentParser) -> None:
  """The flags of `distributed.Flags`."""
  default = distributed.Flags()
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


def read_flags(args: argparse.Namespace) -> distributed.Flags:
  """What they say."""
  return distributed.Flags(
    coordinator=args.coordinator,
    num_processes=args.num_processes,
    process_id=args.process_id,
    detect=args.distributed == 'auto',
    join_s=args.join_timeout,
    silence_s=args.host_timeout,
  )


@dataclasses.dataclass(frozen=True)
class Processes:
  """The processes of a run; by default this one is alone."""

  group: groups.AnyGroup = alone.ALONE

  @property
  def main(self) -> bool:
    """Whether this is the one that shows and writes."""
    return self.group.index == 0

  @contextlib.contextmanager
  def guard(self) -> Iterator[None]:
    """Where an error of this process alone must not leave the others waiting.

    The others are told why, and this process ends at once: what would be closed
    on the way out, a checkpoint say, may wait for the others for ever.
    """
    try:
      yield
    except errors.InterruptedRunError:
      raise  # all of them are
    except BaseException as error:  # also Ctrl-C
      if isinstance(self.group, alone.Alone):
        raise
      self._end(error)

  def _end(self, error: BaseException) -> None:
    found = exits.ending(error)
    if found is None:
      time.sleep(FIND_OUT_S)  # if a process is lost, this one ends here
      text = ''.join(traceback.format_exception(error))
      found = exits.BUG, f'{text}a bug: {type(error).__name__}: {error}'
    code, line = found
    self.group.fail(line.splitlines()[-1], code)
    _leave(self.group.index, line, code)


ALONE = Processes()


@contextlib.contextmanager
def joined(flags: distributed.Flags, run: Run) -> Iterator[Processes]:
  """Joins the others, if there are any; waits for them in the end.

  Raises:
    InputError: flags that do not fit together, or other code in some process.
    LostHostError: somebody did not come.
  """
  place = distributed.find(flags)
  if place is None:
    yield ALONE
    return
  ways = distributed.Ways(
    say=terminal.say,
    leave=lambda line, code: _leave(place.index, f'lost: {line}', code),
  )
  try:
    found = distributed.join(place, flags, _about(run), ways)
  except (errors.InputError, errors.LostHostError) as error:
    _leave(place.index, *reversed(exits.ending(error)))
  here = Processes(found)
  try:
    with here.guard():
      yield here
      distributed.leave(found)
  except errors.InterruptedRunError as error:
    with here.guard():
      distributed.leave(found)
    if here.main:
      raise
    _leave(place.index, *reversed(exits.ending(error)))


def _leave(index: int, line: str, code: int) -> None:
  """Ends the process without waiting for anybody."""
  front = f'process {index}: ' if index else ''
  sys.stdout.flush()
  sys.stderr.write(front + line + '\n')
  sys.stderr.flush()
  os._exit(code)


def _about(run: Run) -> dict[str, str]:
  """What must be the same in all processes."""
  text = json.dumps(config_tree.to_dict(run), sort_keys=True)
  return {
    'the config (a checksum)': hashlib.sha256(text.encode()).hexdigest()[:12],
    'moejax': files.version('moejax') or 'not installed',
    'jax': jax.__version__,
    'python': '.'.join(platform.python_version_tuple()[:2]),
  }
