"""Says what this installation and this machine can do, and what is missing.

  moejax doctor
  moejax doctor --json
  moejax doctor --only=packages,features
  moejax doctor --only=disk --workdir=/scratch/runs

It imports every package that moejax needs, names the features whose packages
are missing, times matrix products in each type, compares the grouped matmuls
and collectives of this machine with the reference (the self-check of every
run), and writes and reads a file of 64 MB where --workdir is. It takes half a
minute on two cores.

What only a feature needs may be missing. If a package that every run needs is
broken, or the disk cannot be written, the exit code is 2; if an implementation
computes something wrong, it is 3.
"""

import json
from collections.abc import Iterator, Sequence

from moejax.core import command, errors, exits, table, terminal
from moejax.doctor import examine
from moejax.doctor.finding import BROKEN, Finding


def main(argv: Sequence[str]) -> None:
  """Prints what is found, as lines or JSON."""
  flags = command.parser(__doc__)
  add = flags.add_argument
  every = ','.join(examine.PARTS)
  add('--only', default=every, help=f'some of {every}')
  add('--workdir', default='runs', help='whose disk is timed (default: runs)')
  add('--json', action='store_true', help='print JSON')
  args = command.parse_alone(flags, argv)
  parts = args.only.split(',')
  for part in parts:
    if part not in examine.PARTS:
      raise table.unknown('part', part, examine.PARTS)
  found = examine.findings(parts, args.workdir)
  broken = _as_json(found) if args.json else _as_lines(found)
  names = [one.name for one in broken if one.part != examine.EXPERTS]
  if names:
    raise errors.InputError(
      f'broken: {", ".join(names)}; the lines above say what is wrong'
    )
  if broken:
    wrong = ', '.join(one.name for one in broken)
    raise errors.StoppedError(
      f'the self-check fails: {wrong}; the lines above name what to set instead'
    )


def _as_lines(found: Iterator[Finding]) -> list[Finding]:
  """Prints each finding when it is there; returns the broken ones."""
  broken, part = [], ''
  for one in found:
    if one.part != part:
      terminal.say(f'{one.part}:')
      part = one.part
    terminal.say(f'  {one.line()}')
    if one.state == BROKEN:
      broken.append(one)
  return broken


def _as_json(found: Iterator[Finding]) -> list[Finding]:
  """Prints all findings as a list; returns the broken ones."""
  rows = [*found]
  terminal.say(json.dumps([one.to_json() for one in rows], indent=2))
  return [one for one in rows if one.state == BROKEN]


if __name__ == '__main__':
  exits.main(main, keeps=False)
