r"""Measures what the routers of a run's model do with its validation sets.

  python -m moejax.cli.analyse --workdir=runs/tiny
  python -m moejax.cli.analyse --workdir=runs/tiny --step=best \
    --measures=top_experts --batches=4 --json

moejax/analysis/__init__.py has the table of measures, and says how to add one.
The text is that of the run unless --config.data.* says otherwise. The model is
on one device; --config.mesh.fsdp=-1 splits it over all.
"""

from collections.abc import Sequence

from moejax.analysis import MEASURES
from moejax.core import command, exits, files
from moejax.run import evaluation, evaluation_command


def main(argv: Sequence[str]) -> None:
  """Prints a table for each measure, or JSON."""
  flags = evaluation_command.flags(
    __doc__,
    flag='--measures',
    default=','.join(
      name for name, measure in MEASURES.items() if measure.needs == 'counts'
    ),
    flag_help=f'which of {", ".join(MEASURES)} (default: %(default)s)',
  )
  flags.add_argument('--workdir', required=True, help='of the run')
  args, overrides = command.parse(flags, argv)
  if args.out is not None:
    files.check_output(args.out, '--out')
  evaluation_command.run(
    args.workdir, args, overrides, evaluation.analyse, 'measures'
  )


if __name__ == '__main__':
  exits.main(main)
