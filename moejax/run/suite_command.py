"""The command `evaluate --suite`: flags, progress, the table and its files."""

import argparse
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from moejax.core import command, errors, files, terminal
from moejax.core.console import Console
from moejax.evals import sandbox, suite
from moejax.evals.benchmarks import SUITES
from moejax.evals.draws import Draws
from moejax.evals.rows import SOURCES
from moejax.parallel.group import Group
from moejax.run import processes, restore, suite_table, suites
from moejax.run.screen import Screen

TABLE = '.md'  # ending of the file beside --out
LM_EVAL = 'lm_eval'  # the suite of --tasks without --suite
# Flags that need a suite, with their defaults.
DEFAULTS = {
  'tasks': '',
  'data': 'hub',
  'limit': 0,
  'shots_seed': 0,
  'samples': 1,
  'temperature': 0.0,
  'published': 'default',
}


def add_flags(flags: argparse.ArgumentParser) -> None:
  """Adds the flags of suites, and those of several processes."""
  add = flags.add_argument_group('benchmarks').add_argument
  add('--suite', help=f'one of {",".join(SUITES)}; --evals are then left out')
  add('--tasks', help='some tasks of the suite (default: all)')
  add('--data', help=f'{", ".join(SOURCES)} or a folder (default: hub)')
  add(
    '--limit',
    type=command.number(int, 1),
    help='rows of each configuration of a task (default: all)',
  )
  add('--shots_seed', type=command.seed, help='of the choice of solved rows')
  add(
    '--samples',
    type=command.number(int, 1, 1000),
    help='generated answers to each prompt (default: 1)',
  )
  add(
    '--temperature',
    type=command.number(float, 0),
    help='of generated answers (default: 0, the most probable tokens)',
  )
  add(
    '--published',
    help="papers' columns: default, all, none or names (default: default)",
  )
  add(
    '--run_generated_code',
    action='store_true',
    help='run programs that the model writes, in a sandbox',
  )
  processes.add_flags(flags)


def wanted(args: argparse.Namespace) -> bool:
  """Whether flags ask for a suite.

  Raises:
    InputError: a flag needs a suite.
  """
  if args.suite is None and args.tasks is None:
    for name in DEFAULTS:
      if getattr(args, name) is not None:
        raise errors.InputError(
          f'--{name}={getattr(args, name)} needs --suite: one of '
          f'{", ".join(SUITES)}'
        )
    return False
  return True


def run(args: argparse.Namespace, overrides: Sequence[tuple[str, str]]) -> None:
  """Scores each workdir, and prints and writes the table."""
  for name, default in DEFAULTS.items():
    if getattr(args, name) is None:
      setattr(args, name, default)
  suites.check_workdirs(args.workdir)
  if args.out and epath.Path(args.out).suffix == TABLE:
    raise errors.InputError(
      f'--out={args.out} is the file of the results as JSON; the table is '
      f'written beside it as {TABLE}: give --out another ending, such as .json'
    )
  request = suites.SuiteRequest(
    suite=args.suite or LM_EVAL,
    tasks=[*filter(None, args.tasks.split(','))],
    data=args.data,
    limit=args.limit,
    seed=args.shots_seed,
    step=args.step,
    run=sandbox.find() if args.run_generated_code else None,
    draws=Draws(args.samples, args.temperature),
  )
  first = restore.run_of(args.workdir[0])
  with processes.joined(processes.read_flags(args), first) as joined:
    if joined.group.count > 1 and not any(
      key.startswith('mesh.') for key, _ in overrides
    ):
      # One device would be that of process 0.
      overrides = [*overrides, ('mesh.data', '-1')]
    _run(args, request, overrides, joined.group)


def _run(
  args: argparse.Namespace,
  request: suites.SuiteRequest,
  overrides: Sequence[tuple[str, str]],
  group: Group,
) -> None:
  main = group.index == 0
  note = terminal.note if main else lambda _: None
  console = Console(stderr=True, quiet=not main)
  tasks = suite.choose(SUITES, request.suite, request.tasks)
  published = suite_table.beside(request.suite, args.published, [*tasks])
  asked = suites.ask(request, note)
  with Screen(0, console=console) as screen:
    track = functools.partial(screen.track, unit='texts')
    scored = [
      suites.evaluate(
        workdir,
        request,
        asked,
        overrides,
        group=group,
        note=screen.line if main else note,
        track=track,
      )
      for workdir in args.workdir
    ]
  if not main:
    return
  lines = suite_table.lines(scored, published)
  result = suites.to_json(scored, request)
  _write(args, request, lines, result)
  terminal.say(json.dumps(result, indent=2) if args.json else '\n'.join(lines))


def _write(
  args: argparse.Namespace,
  request: suites.SuiteRequest,
  lines: Sequence[str],
  result: Mapping[str, Any],
) -> None:
  """Writes results.json and table.md of the first workdir, and --out."""
  folder = epath.Path(args.workdir[0]) / suites.FOLDER / request.suite
  places = [(folder / 'results.json', folder / 'table.md')]
  if args.out:
    out = epath.Path(args.out)
    places.append((out, out.with_suffix(TABLE)))
  for data, table in places:
    files.atomic_write_json(data, result)
    files.atomic_write_text(table, '\n'.join(lines) + '\n')
