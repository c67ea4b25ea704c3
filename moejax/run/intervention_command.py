"""The command `intervene`: flags, progress, the table and the picture."""

import argparse
import functools
import json
from collections.abc import Sequence

from etils import epath

from moejax.analysis.interventions import INTERVENTIONS
from moejax.core import columns, command, errors, terminal
from moejax.core.console import Console
from moejax.evals.benchmarks import SUITES
from moejax.evals.rows import SOURCES
from moejax.run import intervening, intervention_rows, restore, suites
from moejax.run.intervening import InterventionRequest
from moejax.run.screen import Screen


def flags(doc: str) -> argparse.ArgumentParser:
  """The flags of the command, whose docstring is `doc`."""
  parser = command.parser(doc)
  restore.add_step_flag(parser)
  at_least_0 = command.number(int, 0)
  add = parser.add_argument
  add('--workdir', help='of the run')
  add('--what', help=f'one of {",".join(INTERVENTIONS)}')
  add('--values', help='separated by commas (default: the usual ones)')
  layers = 'numbers of the layers to change, from 0 (default: all with experts)'
  add('--layers', type=_layers, help=layers)
  add('--batches', type=at_least_0, default=0, help='of each set; 0: all')
  add('--list', action='store_true', help='list the interventions')
  add('--json', action='store_true', help='print JSON')
  add = parser.add_argument_group('benchmarks').add_argument
  add('--suite', help=f'one of {",".join(SUITES)}')
  add('--tasks', help='some tasks of the suite (default: all)')
  add('--data', help=f'{", ".join(SOURCES)} or a folder (default: hub)')
  limit = 'rows of each configuration of a task (default: all)'
  add('--limit', type=command.number(int, 1), help=limit)
  return parser


def _layers(text: str) -> list[int]:
  return [int(number) for number in text.split(',')]


_layers.__name__ = 'list of layers'  # argparse names it in errors


def listing() -> str:
  """All interventions, one line each."""
  rows = [(name, x.summary, x.value) for name, x in INTERVENTIONS.items()]
  head = ('intervention', 'effect', 'value')
  return '\n'.join(columns.aligned([head, *rows], left=(0, 1, 2)))


def run(args: argparse.Namespace, overrides: Sequence[tuple[str, str]]) -> None:
  """Evaluates an intervention, and prints its table or JSON.

  Raises:
    InputError: see `intervening.intervene`; or flags that do not go together.
  """
  for name in ('workdir', 'what'):
    if getattr(args, name) is None:
      raise errors.InputError(f'--{name} is missing; see --help')
  request = _request(args)
  with Screen(0, console=Console(stderr=True)) as screen:
    result = intervening.intervene(
      args.workdir,
      request,
      overrides,
      note=screen.line,
      track=functools.partial(screen.track, unit='batches'),
    )
  asked = (None, *result['values'])
  rows = [row for row in result['rows'] if row['value'] in asked]
  if args.json:
    shown = {key: x for key, x in result.items() if key != 'measured'}
    terminal.say(json.dumps(shown, indent=2))
  else:
    terminal.say(f'{args.workdir}, step {result["step"]}')
    terminal.say('\n'.join(intervention_rows.lines(args.what, rows)))
  picture = intervening.path(args.workdir, request).with_suffix('.svg')
  terminal.note(intervention_rows.draw(args.what, rows, epath.Path(picture)))


def _request(args: argparse.Namespace) -> InterventionRequest:
  suite = None
  if args.suite is not None:
    suite = suites.SuiteRequest(
      suite=args.suite,
      tasks=_split(args.tasks),
      data=args.data or 'hub',
      limit=args.limit or 0,
    )
  else:
    for name in ('tasks', 'data', 'limit'):
      if getattr(args, name) is not None:
        raise errors.InputError(
          f'--{name}={getattr(args, name)} needs --suite: one of '
          f'{", ".join(SUITES)}'
        )
  return InterventionRequest(
    what=args.what,
    values=_split(args.values),
    layers=args.layers,
    step=args.step,
    batches=args.batches,
    suite=suite,
  )


def _split(text: str | None) -> list[str]:
  words = (text or '').split(',')
  return [*dict.fromkeys(filter(None, map(str.strip, words)))]
