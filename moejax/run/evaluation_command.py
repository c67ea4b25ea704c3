"""What the commands `evaluate` and `analyse` share: flags, tables, JSON."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath
from rich.console import Console

from moejax.core import command, files, terminal
from moejax.run import restore, tables


def run(
  argv: Sequence[str],
  doc: str,
  evaluate: Callable[..., dict[str, Any]],
  *,
  flag: str,
  default: str,
  flag_help: str,
) -> None:
  """Evaluates a run's model, and prints a table for each entry, or JSON.

  Args:
    argv: the command line.
    doc: docstring of the command.
    evaluate: `evaluation.evaluate`, or a function with its signature.
    flag: names the entries, such as `--evals`; `evals` is then the key of
      their rows in the result.
    default: the flag's default.
    flag_help: the flag's help.
  """
  entries = flag.removeprefix('--')
  flags = command.parser(doc)
  add = flags.add_argument
  add('--workdir', required=True, help='of the run')
  restore.add_step_flag(flags)
  add(flag, default=default, help=flag_help)
  at_least_0 = command.number(int, 0)
  add('--batches', type=at_least_0, default=0, help='of each set; 0: all')
  add('--json', action='store_true', help='print JSON')
  add('--out', help='a JSON file to write')
  args, overrides = command.parse(flags, argv)
  if args.out is not None:
    files.check_output(args.out, '--out')
  result = evaluate(
    args.workdir,
    getattr(args, entries).split(','),
    overrides,
    step=args.step,
    limit=args.batches,
    note=terminal.note,
  )
  if args.out:
    files.atomic_write_json(epath.Path(args.out), result)
  console = Console(highlight=False, markup=False)
  if args.json:
    console.out(json.dumps(result, indent=2))
    return
  console.print(f'{args.workdir}, step {result["step"]}', soft_wrap=True)
  for name, rows in result[entries].items():
    console.print(tables.table(name, rows))
