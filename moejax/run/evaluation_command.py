"""What the commands `evaluate` and `analyse` share: flags, tables, JSON."""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from moejax.core import command, files, terminal
from moejax.core.console import Console
from moejax.run import restore, tables


def flags(
  doc: str, *, flag: str, default: str, flag_help: str
) -> argparse.ArgumentParser:
  """The flags of a command that evaluates a run's model.

  Args:
    doc: docstring of the command.
    flag: names the entries, such as `--evals`; `evals` is then the key of
      their rows in the result.
    default: the flag's default.
    flag_help: the flag's help.
  """
  parser = command.parser(doc)
  add = parser.add_argument
  restore.add_step_flag(parser)
  add(flag, default=default, help=flag_help)
  at_least_0 = command.number(int, 0)
  add('--batches', type=at_least_0, default=0, help='of each set; 0: all')
  add('--json', action='store_true', help='print JSON')
  add('--out', help='a JSON file to write')
  return parser


def run(
  workdir: str,
  args: argparse.Namespace,
  overrides: Sequence[tuple[str, str]],
  evaluate: Callable[..., dict[str, Any]],
  entries: str,
  shown: Callable[[str, Any], Any] = lambda _, rows: rows,
) -> None:
  """Evaluates a run's model, and prints a table for each entry, or JSON.

  Args:
    workdir: of the run.
    args: the flags of `flags`.
    overrides: config keys to change.
    evaluate: `evaluation.evaluate`, or a function with its signature.
    entries: name of the flag that names the entries, without dashes.
    shown: rows of an entry, by its name, as the table shows them.
  """
  result = evaluate(
    workdir,
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
  console.print(f'{workdir}, step {result["step"]}', soft_wrap=True)
  for name, rows in result[entries].items():
    console.print(tables.table(name, shown(name, rows)))
