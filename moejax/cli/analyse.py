r"""Measures what the routers of a run's model do.

  moejax analyse --workdir=runs/tiny
  moejax analyse --workdir=runs/tiny --measures=saturation,coactivation
  moejax analyse --workdir=runs/tiny --step=best \
    --measures=top_experts --batches=4 --json

docs/analysis.md says what the measures mean. Most are of the traces in
WORKDIR/traces, which `moejax trace` writes; top_experts and load are of an
evaluation, on the text of the run unless --config.data.* names another. The
rows of all traces are kept as WORKDIR/analysis/NAME.json. The model is on one
device; --config.mesh.fsdp=-1 splits it over all.
"""

import functools
from collections.abc import Sequence

from moejax.analysis import MEASURES
from moejax.core import command, exits, files
from moejax.run import (
  analysing,
  evaluation_command,
  measure_source,
  measure_table,
)


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
  add = flags.add_argument
  add('--workdir', required=True, help='of the run')
  add('--traces', help='a folder, or files (default: WORKDIR/traces)')
  add('--domains', help='names, joined by commas (default: all of the traces)')
  args, overrides = command.parse(flags, argv)
  if args.out is not None:
    files.check_output(args.out, '--out')
  choice = measure_source.TraceChoice(
    place=args.traces,
    domains=tuple(args.domains.split(',')) if args.domains else None,
  )
  evaluation_command.run(
    args.workdir,
    args,
    overrides,
    functools.partial(analysing.analyse, choice=choice),
    'measures',
    shown=functools.partial(measure_table.for_table, args.workdir),
  )


if __name__ == '__main__':
  exits.main(main)
