"""Trains a model and reports on it.

  python -m moejax.main --config=configs/tiny.py --workdir=runs/tiny
  python -m moejax.main --config=configs/ds_2b.py:tiny --config.opt.peak_lr=3e-4

Run the same command again: a finished run says so, an interrupted one goes on
from its last checkpoint as if it had never stopped.
"""

from collections.abc import Sequence

from moejax.cli import command, run, run_config


def main(argv: Sequence[str]) -> None:
  """Reads the flags and trains."""
  flags = command.parser(f'{__doc__}\n{command.__doc__}')
  flags.add_argument('--config', required=True, help='path[:arg] of a config')
  flags.add_argument('--workdir', help='default: runs/<name of the config>')
  args, overrides = command.parse(flags, argv)
  config = run_config.load(args.config, overrides)
  run.train(config, args.workdir or run_config.default_workdir(args.config))


if __name__ == '__main__':
  command.main(main)
