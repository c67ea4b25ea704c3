"""Processes that train the runs of a sweep, some at a time.

Each run is a process of its own, so a run that dies, for example for lack of
memory, fails alone. Its output, that of native code included, goes to log.txt
in its folder. All share one folder of compiled programs. They do not get the
terminal's Ctrl-C, but stop when their standard input ends: a pipe that the
sweep holds open, and that the system closes also when the sweep is killed.
"""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO, NamedTuple, Protocol

from etils import epath

from moejax import config as configs
from moejax.core import command, compile_cache, exits
from moejax.run import train
from moejax.sweep import devices
from moejax.sweep.grid import SweepRun

WORKER, LOG = ('-m', 'moejax.sweep.pool'), 'log.txt'
POLL_S = 0.05  # time between two looks at the processes, in seconds


class Outcome(NamedTuple):
  """How the process of a run ended."""

  code: int  # see core/exits.py
  message: str  # the reason where the code is not 0
  seconds: float  # wall time


class Work(Protocol):
  """The runs that are to be trained, one after the other."""

  def take(self) -> SweepRun | None:
    """The next run; None while there is none."""
    ...

  def ended(self, run: SweepRun, outcome: Outcome) -> None:
    """Is called after the end of a process, also after a failure or Ctrl-C."""
    ...

  def stops(self, run: SweepRun) -> bool:
    """Whether a run that is at work should save its state and end."""
    ...


class _Slot(NamedTuple):
  """What a process of the pool has for itself."""

  cores: list[int]
  environment: Mapping[str, str]


class _Process:
  """A run at work on some cores."""

  def __init__(self, run: SweepRun, folder: epath.Path, slot: _Slot):
    self.run, self.slot, self._begin = run, slot, time.monotonic()
    workdir = os.fspath(folder / run.name)
    self._log = pathlib.Path(workdir) / LOG
    self._log.parent.mkdir(parents=True, exist_ok=True)
    flags = [f'--config={run.config}', f'--workdir={workdir}']
    flags += [f'--cores={",".join(map(str, slot.cores))}']
    flags += run.flags
    env = {
      **compile_cache.environment(folder / compile_cache.FOLDER),
      **os.environ,
      **slot.environment,
      'PYTHONUNBUFFERED': '1',  # log.txt is read while it is written
    }
    with self._log.open('a', encoding='utf-8') as log:
      self.popen = subprocess.Popen(
        [sys.executable, *WORKER, *flags],
        env=env,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
      )

  def stop(self) -> None:
    """Lets the run save its state and end; returns at once."""
    stdin: IO[bytes] | None = self.popen.stdin
    if stdin is not None:
      stdin.close()

  def outcome(self) -> Outcome:
    """Waits for the end of the process."""
    code, message = self.popen.wait(), ''
    self.stop()  # closes the pipe
    if code:  # its last words are the reason
      text = self._log.read_text(encoding='utf-8', errors='replace')
      message = text.rstrip().rpartition('\n')[2].strip()
    if code < 0:
      name = signal.Signals(-code).name
      code, message = exits.BUG, f'the process was ended by {name}; {message}'
    return Outcome(code, message, time.monotonic() - self._begin)


def run(work: Work, folder: epath.Path, processes: int) -> None:
  """Trains runs in folders of the sweep's workdir.

  A second Ctrl-C ends the sweep at once, and may end the processes before they
  have saved their state.

  Args:
    work: the runs. The first that it does not give while nothing is at work is
      the end.
    folder: workdir of the sweep.
    processes: how many train at a time; each keeps to its share of the cores
      and of the accelerators.

  Raises:
    InputError: see `devices.environments`.
  """
  cores = devices.shares(processes, devices.cores())
  environments = devices.environments(processes)
  free = [_Slot(*slot) for slot in zip(cores, environments, strict=True)]
  working: list[_Process] = []
  try:
    while True:
      while free and (run := work.take()):
        working.append(_Process(run, folder, free.pop(0)))
      if not working:
        return
      time.sleep(POLL_S)
      for process in [p for p in working if p.popen.poll() is not None]:
        working.remove(process)
        free.append(process.slot)
        work.ended(process.run, process.outcome())
      for process in working:
        if work.stops(process.run):
          process.stop()
  except BaseException:
    for process in working:
      process.stop()
    for process in working:
      work.ended(process.run, process.outcome())
    raise
  finally:
    for process in working:
      process.popen.kill()  # does nothing to one that has ended


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
