r"""Trains every run of a list, and compares them in one table.

  moejax sweep --sweep=routers --list
  moejax sweep --sweep=routers --processes=2 --out=docs/routers.md
  moejax sweep --sweep=routers \
    --only=switch,gshard --config.train.steps=50 --workdir=runs/short

A sweep file is Python with `get_sweep()`; moejax/sweep/grid.py shows how to
write one. `--config.*` is for all its runs, after what the file says.

Run the same command again: finished runs stay as they are, an interrupted run
goes on from its last checkpoint, and a failed run is tried again. A run that
fails does not stop the others. The workdir holds:

  <run>/           a training run as moejax.main makes it, and its log.txt
  compile_cache/   compiled programs, for all runs of one shape
  sweep.json       why runs failed, and how long they took
  results.json     every number of the table, and of each run
  results.md       the table: bits per byte with its spread over seeds, balance,
                   dropped assignments, speed, parameters; best first
  results.png      a picture of it (needs pip install 'moejax[plot]')

--out=FILE puts table and picture into a document as well, between the lines
`<!-- begin sweep NAME -->` and `<!-- end sweep NAME -->`, where NAME is that of
the sweep file; a file that does not exist is made.

--processes=N trains N runs at a time, each on its share of this machine's
cores. It is for CPUs, where one run does not use all cores well; a step is then
slower than alone, as tokens/s show. An accelerator is taken whole by a process.
If runs are short, much of their time is the evaluation at the end: set
report.eval_batches and report.samples in the sweep file.
"""

import pathlib
from collections.abc import Sequence

from moejax import config as configs
from moejax.core import command, errors, exits, files
from moejax.sweep import results
from moejax.sweep.sweep import Sweep


def main(argv: Sequence[str]) -> None:
  """Reads the flags, trains what is not finished, and shows the table."""
  flags = command.parser(__doc__)
  add, number = flags.add_argument, command.number(int, 1)
  add('--sweep', required=True, help='path of a sweep file')
  add('--workdir', help='default: runs/<name of the sweep file>')
  add('--processes', type=number, default=1, help='runs at a time')
  add('--only', help='names, separated by commas')
  add('--out', help='a Markdown file for the table')
  add('--list', action='store_true', help='train nothing')
  args, overrides = command.parse(flags, argv)
  if args.list and args.out is not None:
    raise errors.InputError(
      f'--list writes no table to --out={args.out}; leave one of the two out'
    )
  workdir = args.workdir or configs.default_workdir(args.sweep)
  sweep = Sweep(args.sweep, overrides, workdir, args.only)
  if args.list:
    print('\n'.join(sweep.listing()))
    return
  out = None if args.out is None else pathlib.Path(args.out)
  if out:
    files.check_output(args.out, '--out')
    results.in_document(out, sweep.name, '')  # raises if it has no place for it
  sweep.check_folders()
  files.check_writable(sweep.folder)
  with files.locked(sweep.folder, print):
    try:
      sweep.train(args.processes)
    finally:
      print(f'\n{sweep.write_results(out)}', end='')
  sweep.check_finished()


if __name__ == '__main__':
  exits.main(main)
