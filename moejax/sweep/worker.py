"""Trains one run of a sweep; `moejax.sweep.pool` starts it as a process.

The sweep holds the other end of standard input. When that end closes, because
the sweep was stopped or has died, the run saves its state as after SIGTERM.
"""

import os
import signal
import sys
import threading
from collections.abc import Sequence

from moejax import config as configs
from moejax.core import command, exits
from moejax.run import train


def main(argv: Sequence[str]) -> None:
  """Trains the run of the flags."""
  flags = command.parser(__doc__)
  flags.add_argument('--config', required=True, help='path[:arg] of a config')
  flags.add_argument('--workdir', required=True, help='folder of the run')
  flags.add_argument('--cores', required=True, help='to keep to, such as 0,1')
  args, overrides = command.parse(flags, argv)
  if hasattr(os, 'sched_setaffinity'):
    # XLA starts a thread for each core when JAX first looks for devices.
    os.sched_setaffinity(0, {int(core) for core in args.cores.split(',')})
  threading.Thread(target=_stop_with_sweep, daemon=True).start()
  run = configs.load(args.config, overrides, args.workdir)
  train.train(run, args.workdir)


def _stop_with_sweep() -> None:
  sys.stdin.read()  # returns when the other end is closed
  os.kill(os.getpid(), signal.SIGTERM)


if __name__ == '__main__':
  exits.main(main)
