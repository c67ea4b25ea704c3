r"""Evaluates the trained model of a run.

  python -m moejax.cli.evaluate --workdir=runs/tiny
  python -m moejax.cli.evaluate --workdir=runs/tiny --step=best \
    --evals=perplexity,samples --out=scores.json
  python -m moejax.cli.evaluate --workdir=runs/tiny --json \
    --config.data.files='/my/texts/*.txt'

moejax/evals/__init__.py has the table of evaluations, and says how to add one.
The text is that of the run unless --config.data.* says otherwise. The model is
on one device; --config.mesh.fsdp=-1 splits it over all.
"""

import json
from collections.abc import Sequence

from etils import epath
from rich.console import Console

from moejax.core import command, exits, files, terminal
from moejax.evals import EVALS
from moejax.run import evaluation, restore, tables


def main(argv: Sequence[str]) -> None:
  """Prints a table for each evaluation, or JSON."""
  flags = command.parser(__doc__)
  add = flags.add_argument
  add('--workdir', required=True, help='of the run')
  restore.add_step_flag(flags)
  add('--evals', default='perplexity', help=f'some of {",".join(EVALS)}')
  at_least_0 = command.number(int, 0)
  add('--batches', type=at_least_0, default=0, help='of each set; 0: all')
  add('--json', action='store_true', help='print JSON')
  add('--out', help='a JSON file to write')
  args, overrides = command.parse(flags, argv)
  if args.out is not None:
    files.check_output(args.out, '--out')
  result = evaluation.evaluate(
    args.workdir,
    args.evals.split(','),
    overrides,
    step=args.step,
    limit=args.batches,
    note=terminal.note,
  )
  if args.out:
    files.atomic_write_json(epath.Path(args.out), result)
  if args.json:
    print(json.dumps(result, indent=2))
    return
  console = Console(highlight=False, markup=False)
  console.print(f'{args.workdir}, step {result["step"]}', soft_wrap=True)
  for name, rows in result['evals'].items():
    console.print(tables.table(name, rows))


if __name__ == '__main__':
  exits.main(main)
