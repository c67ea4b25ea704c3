r"""Writes what the routers of a run's checkpoints do with each token of a text.

  moejax trace --workdir=runs/tiny
  moejax trace --workdir=runs/tiny --checkpoints=all --tokens=50000
  moejax trace --workdir=runs/tiny --checkpoints=0,500 \
    --files='/my/texts/*.txt' --logits --out=traces/mine

Each checkpoint becomes a Parquet file, WORKDIR/traces/STEP.parquet, with a row
for each token: docs/analysis.md has the columns. A file that is there already
is kept, so the same command goes on after an interruption.

The text is the validation sets of the run, a domain each. With --files every
file is a domain, with --mixture every validation set of that mixture. The model
is on one device; --config.mesh.fsdp=-1 splits it over all.
"""

import argparse
from collections.abc import Sequence

from moejax.core import command, exits, terminal
from moejax.core.console import Console
from moejax.run import trace_files
from moejax.run.screen import Screen


def main(argv: Sequence[str]) -> None:
  """Writes the files and prints their names."""
  args, overrides = command.parse(_flags(), argv)
  request = trace_files.TraceRequest(
    checkpoints=args.checkpoints,
    files=args.files,
    mixture=args.mixture,
    tokens=args.tokens,
    logits=args.logits,
  )
  console = Console(stderr=True)
  with Screen(0, console=console) as screen:
    paths = trace_files.trace_run(
      args.workdir,
      request,
      overrides,
      out=args.out,
      track=screen.track,
      note=terminal.note,
    )
  for path in paths:
    terminal.say(str(path))


def _flags() -> argparse.ArgumentParser:
  flags = command.parser(__doc__)
  add = flags.add_argument
  add('--workdir', required=True, help='of the run, or of an imported model')
  add(
    '--checkpoints',
    default='last',
    help='all, last, or steps with commas between them (default: %(default)s)',
  )
  add('--files', help='files, folders or globs to trace, joined by commas')
  add('--mixture', help='name of a mixture or a task to trace')
  add(
    '--tokens',
    type=command.number(int, 0),
    default=0,
    help='about how many, in equal shares of the domains; 0: all',
  )
  add('--logits', action='store_true', help="write the router's logits too")
  add('--out', help='folder of the files (default: WORKDIR/traces)')
  return flags


if __name__ == '__main__':
  exits.main(main)
