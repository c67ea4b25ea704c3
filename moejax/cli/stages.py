"""Trains the stages of a config in turn, each with weights of earlier ones.

  moejax stages --config=FILE:ARG --workdir=runs/staged

The config file lists its stages under STAGES (moejax/config/stages.py). Each
has a folder in the workdir, which every command takes as its --workdir. A flag
--config.KEY changes all stages.

Run the same command again: finished stages are left as they are, and the one
that was interrupted goes on from its last checkpoint. A table at the end has
the scores of all stages, and results.json all numbers. To train a stage anew,
remove its folder, and those of the stages that begin with it.
"""

from collections.abc import Sequence

from moejax.core import huge_pages

if __name__ == '__main__':
  huge_pages.restart()  # before the imports below, which take seconds

from moejax import config as configs
from moejax.core import command, exits
from moejax.run import processes
from moejax.run.stages import Stages


def main(argv: Sequence[str]) -> None:
  """Reads the flags, trains what is not finished, and shows the scores."""
  flags = command.parser(__doc__)
  flags.add_argument('--config', required=True, help='path[:arg] of a config')
  flags.add_argument('--workdir', help='default: runs/<name of the config>')
  processes.add_flags(flags)
  args, overrides = command.parse(flags, argv)
  workdir = args.workdir or configs.default_workdir(args.config)
  stages = Stages(args.config, overrides, workdir)
  first = next(iter(stages.runs.values()))
  with processes.joined(processes.read_flags(args), first) as joined:
    stages.train(joined)
    if joined.main:
      print('\n'.join(stages.write_results()))
      print(f'All stages are finished: {workdir}/results.json has all numbers.')


if __name__ == '__main__':
  exits.main(main)
