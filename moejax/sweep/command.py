"""The command `sweep`: its flags, and what follows from them."""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from moejax import config as configs
from moejax.core import command, errors, files, table, terminal
from moejax.sweep import comparison, local, outputs, results
from moejax.sweep.runners import RUNNERS, Options
from moejax.sweep.sweep import Sweep

# Flags of runners: the attribute of Options, and its value without the flag.
OF_RUNNERS = {
  '--processes': ('processes', 1),
  '--retry': ('retries', 0),
  '--sbatch': ('sbatch', ''),
  '--dry_run': ('dry_run', False),
}


def flags(doc: str) -> argparse.ArgumentParser:
  """The flags of the command, whose docstring is `doc`."""
  parser = command.parser(doc)
  add, number = parser.add_argument, command.number
  add('--sweep', required=True, help='path of a sweep file')
  add('--workdir', help='default: runs/<name of the sweep file>')
  add('--only', help='names, separated by commas')
  add('--out', help='a Markdown file for the table')
  add('--list', action='store_true', help='train nothing')
  table_help = 'train nothing; write the table of what is there'
  add('--against', help='a row; tests compare the others to it alone')
  add('--table', action='store_true', help=table_help)
  add = parser.add_argument_group('where the runs are trained').add_argument
  add('--runner', default='local', help=', '.join(RUNNERS))
  add('--processes', type=number(int, 1), default=1, help='runs at a time')
  again = 'how often a run that fails is started again at once'
  add('--retry', type=number(int, 0), default=0, help=again)
  add('--index', type=number(int, 0), help='train one run, by its place')
  add('--sbatch', default='', help='with slurm: options of sbatch')
  dry = 'with slurm and xpk: show what would be submitted'
  add('--dry_run', action='store_true', help=dry)
  return parser


def run(args: argparse.Namespace, overrides: Sequence[tuple[str, str]]) -> None:
  """Trains what is not finished, and shows the table.

  Raises:
    InputError: flags that do not fit together, or see `Sweep`.
    StoppedError: a chosen run is not finished.
    SystemExit: with --index, the exit code of the run.
  """
  runner = table.lookup('runner in --runner', RUNNERS, args.runner)
  options = _options(args, overrides)
  _check(args, options)
  workdir = args.workdir or configs.default_workdir(args.sweep)
  sweep = Sweep(args.sweep, overrides, workdir, args.only)
  comparison.check_against(args.against, {run.group for run in sweep.runs})
  if args.list:
    terminal.say('\n'.join(sweep.listing()))
    return
  out = None if args.out is None else pathlib.Path(args.out)
  if out:
    files.check_output(args.out, '--out')
    results.in_document(out, sweep.name, '')  # raises if it has no place for it
  sweep.check_folders()
  if args.dry_run:
    runner.start(sweep, options)
    return
  files.check_writable(sweep.folder)
  if args.index is not None:
    # Tasks of one sweep run beside each other; each locks the folder of its
    # run.
    code = local.train_one(sweep, args.index, args.retry)
    if code:
      sys.exit(code)
    return
  with files.locked(sweep.folder, terminal.say):
    try:
      if not args.table:
        runner.start(sweep, options)
    finally:
      if runner.waits or args.table:
        terminal.say(f'\n{outputs.write(sweep, out, args.against)}'.rstrip())
  if runner.waits and not args.table:
    sweep.check_finished()


def _options(
  args: argparse.Namespace, overrides: Sequence[tuple[str, str]]
) -> Options:
  words = [f'--sweep={args.sweep}']
  words += [f'--workdir={args.workdir}'] if args.workdir else []
  words += [f'--config.{key}={text}' for key, text in overrides]
  return Options(words, args.processes, args.retry, args.sbatch, args.dry_run)


def _check(args: argparse.Namespace, options: Options) -> None:
  """Raises InputError if flags contradict each other."""
  takes = RUNNERS[args.runner].takes
  for flag, (name, default) in OF_RUNNERS.items():
    if getattr(options, name) != default and name not in takes:
      others = ' or '.join(n for n, r in RUNNERS.items() if name in r.takes)
      raise errors.InputError(
        f'{flag} has no effect with --runner={args.runner}: leave it out, or '
        f'use --runner={others}'
      )
  if args.list and args.out is not None:
    raise errors.InputError(
      f'--list writes no table to --out={args.out}; leave one of the two out'
    )
  modes = {
    '--list': args.list,
    '--table': args.table,
    '--dry_run': args.dry_run,
    '--index': args.index is not None,
  }
  if sum(modes.values()) > 1:
    both = ' and '.join(flag for flag, given in modes.items() if given)
    raise errors.InputError(f'{both} contradict each other; give one')
  if args.index is not None:
    for flag, given in {
      '--runner': args.runner != 'local',
      '--processes': args.processes != 1,
      '--only': args.only is not None,
      '--out': args.out is not None,
    }.items():
      if given:
        raise errors.InputError(
          f'--index={args.index} trains one run, here: leave {flag} out'
        )
