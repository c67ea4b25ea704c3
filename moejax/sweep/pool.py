"""Processes that train the runs of a sweep, some at a time.

Each run is a process of its own, so a run that dies, for example for lack of
memory, fails alone. Its output, that of native code included, goes to log.txt
in its folder. All share one folder of compiled programs. They do not get the
terminal's Ctrl-C, but stop when their standard input ends: a pipe that the
sweep holds open, and that the system closes also when the sweep is killed.
"""

import collections
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, NamedTuple

from etils import epath

from moejax import config as configs
from moejax.core import command, compile_cache, exits
from moejax.run import train
from moejax.sweep.grid import SweepRun

WORKER, LOG = ('-m', 'moejax.sweep.pool'), 'log.txt'
POLL_S = 0.05  # time between two looks at the processes, in seconds


class Outcome(NamedTuple):
  """How the process of a run ended."""

  code: int  # see core/exits.py
  message: str  # the reason where the code is not 0
  seconds: float  # wall time


class _Process:
  """A run at work on some cores."""

  def __init__(
    self, run: SweepRun, folder: epath.Path, cores: list[int], stdin: IO[bytes]
  ):
    self.run, self.cores, self._begin = run, cores, time.monotonic()
    workdir = os.fspath(folder / run.name)
    self._log = pathlib.Path(workdir) / LOG
    self._log.parent.mkdir(parents=True, exist_ok=True)
    flags = [f'--config={run.config}', f'--workdir={workdir}']
    flags += [f'--cores={",".join(map(str, cores))}']
    flags += [f'--config.{key}={text}' for key, text in run.overrides.items()]
    env = {
      **compile_cache.environment(folder / compile_cache.FOLDER),
      **os.environ,
      'PYTHONUNBUFFERED': '1',  # log.txt is read while it is written
    }
    with self._log.open('a', encoding='utf-8') as log:
      self.popen = subprocess.Popen(
        [sys.executable, *WORKER, *flags],
        env=env,
        stdin=stdin,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
      )

  def outcome(self) -> Outcome:
    """Waits for the end of the process."""
    code, message = self.popen.wait(), ''
    if code:  # its last words are the reason
      text = self._log.read_text(encoding='utf-8', errors='replace')
      message = text.rstrip().rpartition('\n')[2].strip()
    if code < 0:
      name = signal.Signals(-code).name
      code, message = exits.BUG, f'the process was ended by {name}; {message}'
    return Outcome(code, message, time.monotonic() - self._begin)


def run(
  runs: Sequence[SweepRun],
  folder: epath.Path,
  processes: int,
  started: Callable[[SweepRun], None],
  ended: Callable[[SweepRun, Outcome], None],
) -> None:
  """Trains runs in their order, in folders of the sweep's workdir.

  Args:
    runs: the runs.
    folder: workdir of the sweep.
    processes: how many train at a time; each keeps to its share of the cores.
    started: called before the process of a run starts.
    ended: called after it has ended, also after a failure or Ctrl-C. A second
      Ctrl-C ends the sweep at once, and may end the processes before they have
      saved their state.
  """
  waiting, free = collections.deque(runs), shares(processes, cores())
  working: list[_Process] = []
  read, write = os.pipe()
  with open(read, 'rb') as stdin, open(write, 'wb') as held:
    try:
      while waiting or working:
        while waiting and free:
          started(waiting[0])
          process = _Process(waiting.popleft(), folder, free.pop(0), stdin)
          working.append(process)
        time.sleep(POLL_S)
        for process in [p for p in working if p.popen.poll() is not None]:
          working.remove(process)
          free.append(process.cores)
          ended(process.run, process.outcome())
    except BaseException:
      held.close()
      for process in working:
        ended(process.run, process.outcome())
      raise
    finally:
      for process in working:
        process.popen.kill()  # does nothing to one that has ended


def shares(processes: int, among: Sequence[int]) -> list[list[int]]:
  """The cores of each process: neighbours, and shared only if they are too few.

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


def main(argv: Sequence[str]) -> None:
  """Trains one run, in a process that `run` has started."""
  flags = command.parser(__doc__)
  for name in ('--config', '--workdir', '--cores'):
    flags.add_argument(name, required=True)
  args, overrides = command.parse(flags, argv)
  if hasattr(os, 'sched_setaffinity'):
    # XLA starts a thread for each core when JAX first looks for devices.
    os.sched_setaffinity(0, {int(core) for core in args.cores.split(',')})
  threading.Thread(target=_stop_with_sweep, daemon=True).start()
  config = configs.load(args.config, overrides, args.workdir)
  train.train(config, args.workdir)


def _stop_with_sweep() -> None:
  sys.stdin.read()  # returns when the sweep stops its runs, or has died
  os.kill(os.getpid(), signal.SIGTERM)


if __name__ == '__main__':
  exits.main(main)
