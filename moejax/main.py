r"""Trains a model and reports on it.

  moejax train --config=tiny --workdir=runs/tiny
  moejax train --config=ds_2b:tiny --config.opt.peak_lr=3e-4 --workdir=runs/new
  moejax train --config=tiny --workdir=/shared/tiny \
    --coordinator=node0:9876 --num-processes=2 --process-id=0

Run the same command again: a finished run says so, an interrupted one goes on
from its last checkpoint as if it had never stopped.
"""

import functools
import time
from collections.abc import Sequence

from moejax.core import huge_pages

if __name__ == '__main__':
  huge_pages.restart()  # before the imports below, which take seconds

from moejax import config as configs
from moejax.core import command, exits
from moejax.run import processes, train
from moejax.train import goodput


def main(argv: Sequence[str], began: float | None = None) -> None:
  """Reads the flags and trains.

  Args:
    argv: flags of the command.
    began: when the process began, by `time.monotonic`, in seconds.
  """
  flags = command.parser(__doc__)
  flags.add_argument('--config', required=True, help='path[:arg] of a config')
  flags.add_argument('--workdir', help='default: runs/<name of the config>')
  processes.add_flags(flags)
  args, overrides = command.parse(flags, argv)
  workdir = args.workdir or configs.default_workdir(args.config)
  config = configs.load(args.config, overrides, workdir)
  with processes.joined(processes.read_flags(args), config) as joined:
    train.train(config, workdir, began, joined)


if __name__ == '__main__':
  began = time.monotonic() - goodput.process_age()
  exits.main(functools.partial(main, began=began))
