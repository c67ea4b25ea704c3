r"""Writes the page of a run: one HTML file that needs no network.

  moejax report --workdir=runs/tiny
  moejax report --workdir=runs/a --workdir=runs/b --out=both.html

The page has what the workdir holds: scores, curves, the load of experts, what
its traces show (`moejax trace`), interventions (`moejax intervene`), a plan
(`moejax plan --out=WORKDIR/plan.json`), config and versions. It names what is
missing. Of an unfinished run it shows what is there. Several workdirs make a
page that compares them.

Measures of traces, and the similarity of experts by their weights in a small
model, are computed where they are missing, and kept in WORKDIR/analysis/. The
similarity of outputs is shown if `moejax analyse --measures=output_similarity`
has computed it.
"""

from collections.abc import Sequence

from moejax.core import command, errors, exits, files, terminal
from moejax.run import page
from moejax.run import report as reports


def main(argv: Sequence[str]) -> None:
  """Writes the page, and prints its path."""
  flags = command.parser(__doc__)
  add = flags.add_argument
  add('--workdir', required=True, action='append', help='of a run')
  text = f'the file; default: {reports.PAGE} in the workdir of a single run'
  add('--out', help=text)
  args, overrides = command.parse(flags, argv)
  if overrides:
    raise errors.InputError(
      f'--config.{overrides[0][0]} changes nothing here: the page shows runs '
      'as they are; leave it out'
    )
  if args.out is not None:
    files.check_output(args.out, '--out')
  elif len(args.workdir) > 1:
    raise errors.InputError(
      'several runs have no workdir in common: name the file, --out=both.html'
    )
  path = page.write(args.workdir, args.out, terminal.note)
  terminal.say(f'Page: {path}')


if __name__ == '__main__':
  exits.main(main, keeps=False)
