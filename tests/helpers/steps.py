"""A run without a model: the processes add a number in every step.

  python steps.py --coordinator=... [--fail=1 --bug=1 --seconds=0.01]

Prints a line at each tenth step, and never ends by itself.
"""

import sys
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from moejax import config
from moejax.core import command, errors, exits
from moejax.run import processes
from moejax.train import signals


def main(argv):
  flags = command.parser(__doc__)
  flags.add_argument('--fail', type=int)
  flags.add_argument('--bug', type=int)
  flags.add_argument('--nap', type=int)
  processes.add_flags(flags)
  args, _ = command.parse(flags, argv)
  joining = processes.joined(processes.read_flags(args), config.Run())
  with joining as joined, signals.StopSignal() as stop:
    index = joined.group.index
    joined.group.barrier('begin', deadline_s=3)
    for step in range(1, 1_000_000):
      if signal_name := joined.group.agree(stop.after(step), step):
        raise errors.InterruptedRunError(f'{signal_name} at step {step}')
      total = multihost_utils.process_allgather(np.int32(step)).sum()
      assert total == step * jax.process_count()
      if step % 10 == 0:
        sys.stdout.write(f'step {step}\n')
        sys.stdout.flush()
      if step == 20 and index == args.fail:
        raise errors.InputError('no such file')
      if step == 20 and index == args.bug:
        raise ZeroDivisionError('of process 1')
      if step == 20 and index == args.nap:
        joined.group.barrier('never opened', deadline_s=1)
      time.sleep(0.01)


if __name__ == '__main__':
  exits.main(main)
