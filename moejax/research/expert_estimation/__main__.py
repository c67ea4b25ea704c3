"""Measures how fast the experts of a mixture can be estimated.

  python -m moejax.research.expert_estimation --list
  python -m moejax.research.expert_estimation --study=deepseekmoe_sigmoid \
    --trials=40

A study draws samples of known mixtures of experts, fits larger mixtures to
them, and compares atoms by the loss of a theorem. It prints the slope of the
loss against log n / n, which the theorems say is 1/2, and writes results.json
and slopes.png. A study that was stopped goes on with the same command.
"""

import argparse
import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import rich.progress

from moejax.core import columns, command, errors, exits, table, terminal
from moejax.core.console import Console
from moejax.research.expert_estimation import figure, results, theorems
from moejax.research.expert_estimation.em import Settings
from moejax.research.expert_estimation.maximum import Optimiser
from moejax.research.expert_estimation.studies import STUDIES, Study
from moejax.research.expert_estimation.trials import Request

SIZES = tuple(int(n) for n in np.geomspace(100, 100_000, 10).round())


def main(argv: Sequence[str]) -> None:
  """Runs a study, or lists all of them."""
  flags = _flags()
  args, overrides = command.parse(flags, argv)
  if overrides:
    flags.error(f'--config.{overrides[0][0]}: a study has no config')
  if args.list:
    terminal.say('\n'.join(listing()))
    return
  if args.study is None:
    flags.error('--study= is missing; --list shows all')
  study = table.lookup('study', STUDIES, args.study)
  request = Request(
    trials=args.trials,
    sizes=sizes_of(args.sizes),
    seed=args.seed,
    restarts=args.restarts,
    check=args.check,
  )
  request = bounded(request, args.largest_gate, args.largest_expert)
  study = chosen(study, args.case, args.gate)
  for case in study.cases.values():
    case.check_sizes([*request.sizes])
  folder = pathlib.Path(args.out or f'runs/expert_estimation/{args.study}')
  with _bar(len(study.cases) * len(request.sizes)) as done:
    found = results.collect(study, request, folder, terminal.note, done)
  terminal.say('\n'.join(columns.aligned(rows_of(found['cases']))))
  image = folder / 'slopes.png'
  figure.draw(found['cases']).savefig(image, dpi=120)
  terminal.say(f'{folder / results.RESULTS}\n{image}')


def add_samples(flags: argparse.ArgumentParser) -> None:
  """Adds --trials and --sizes, which say what is drawn."""
  flags.add_argument(
    '--trials',
    type=command.number(int, 1, 100_000),
    default=40,
    help='samples of each size (default: %(default)s)',
  )
  flags.add_argument(
    '--sizes',
    default=','.join(map(str, SIZES)),
    help='sample sizes (default: ten from 100 to 100000)',
  )


def _flags() -> Any:
  flags = command.parser(__doc__ or '')
  flags.add_argument('--list', action='store_true', help='list the studies')
  flags.add_argument('--study', help='a name of --list')
  flags.add_argument('--case', help='one case of the study alone')
  flags.add_argument('--gate', help='fit with this gate, where no theorem is')
  add_samples(flags)
  flags.add_argument(
    '--seed',
    type=command.number(int, 0, 2**31 - 1),
    default=0,
    help='of all random numbers (default: %(default)s)',
  )
  flags.add_argument(
    '--restarts',
    type=command.number(int, 1, 1000),
    default=1,
    help='starts of a trial; the first is near the truth (default: 1)',
  )
  flags.add_argument(
    '--check',
    type=command.number(int, 0, 100_000),
    default=0,
    help='trials of each size that L-BFGS-B fits too (default: 0)',
  )
  flags.add_argument(
    '--largest_gate',
    type=command.number(float, 0.1, 1000),
    default=Settings().largest_gate,
    help='bound on the absolute weights of fitted gates (default: %(default)g)',
  )
  flags.add_argument(
    '--largest_expert',
    type=command.number(float, 0.1, 1e6),
    default=Optimiser().largest_expert,
    help='bound on the absolute parameters of experts that SciPy fits '
    '(default: %(default)g)',
  )
  flags.add_argument(
    '--out',
    help='folder of the results (default: runs/expert_estimation/STUDY)',
  )
  return flags


def listing() -> list[str]:
  """The studies, their cases, losses and theorems."""
  lines = []
  for name, study in STUDIES.items():
    lines += [f'{name}: {study.title} ({study.source})']
    rows = [
      ['  case', 'gate', 'experts', 'loss', 'theorem'],
      *(
        [
          f'  {case_name}',
          theorems.name_of_gate(case.model.gate),
          theorems.name_of_expert(case.model.routed),
          case.loss,
          case.theorem or '-',
        ]
        for case_name, case in study.cases.items()
      ),
    ]
    lines += [*columns.aligned(rows, left=range(5)), '']
  return lines[:-1]


def sizes_of(text: str) -> tuple[int, ...]:
  """Sample sizes from text, such as '100,1000'.

  Raises:
    InputError: a word is not a whole number of 3 or more, or sizes are not in
      ascending order.
  """
  sizes = []
  for word in text.split(','):
    try:
      sizes.append(int(word))
    except ValueError:
      raise errors.InputError(
        f'--sizes={text}: {word!r} is not a whole number; write --sizes='
        '100,1000'
      ) from None
  if sizes != sorted(set(sizes)) or sizes[0] < 3:
    raise errors.InputError(
      f'--sizes={text} must ascend, from 3 or more; write --sizes=100,1000'
    )
  return tuple(sizes)


def chosen(study: Study, case: str | None, gate: str | None) -> Study:
  """The study with one case alone, or with another gate in what is fitted.

  Raises:
    InputError: an unknown case or gate, or a gate that a theorem excludes.
  """
  cases = dict(study.cases)
  if case is not None:
    cases = {case: table.lookup('case', cases, case)}
  if gate is not None:
    cases = {name: known.with_gate(gate) for name, known in cases.items()}
  return dataclasses.replace(study, cases=cases)


def bounded(
  request: Request, largest_gate: float, largest_expert: float
) -> Request:
  """The request with other bounds on what is fitted."""
  em = dataclasses.replace(request.em, largest_gate=largest_gate)
  optimiser = dataclasses.replace(
    request.optimiser, largest_gate=largest_gate, largest_expert=largest_expert
  )
  return dataclasses.replace(request, em=em, optimiser=optimiser)


def rows_of(cases: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
  """The table that is printed: a row for each case."""
  rows = [
    [
      'case',
      'loss',
      'slope',
      '95% interval',
      'of medians',
      'theory',
      'published',
      'converged',
      'failed',
      'seconds',
    ]
  ]
  for name, case in cases.items():
    slope = case['series']['loss']['slope']
    median = case['series']['loss']['median_slope']
    number = lambda value: '-' if value is None else f'{value:g}'
    rows.append([
      name,
      case['loss'],
      f'{slope["value"]:.3f}' if slope else '-',
      f'{slope["low"]:.3f} to {slope["high"]:.3f}' if slope else '-',
      f'{median["value"]:.3f}' if median else '-',
      number(case['theory']),
      number(case['published']),
      f'{np.mean(case["converged"]):.0%}',
      str(sum(case['failed'])),
      f'{case["seconds"]:.1f}',
    ])
  return rows


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[], None]]:
  """A progress bar over sizes of cases on stderr, if it is a terminal."""
  console = Console(stderr=True)
  with rich.progress.Progress(
    rich.progress.TextColumn('sizes of cases'),
    rich.progress.BarColumn(),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TimeRemainingColumn(),
    console=console,
    disable=not console.is_terminal,
  ) as bar:
    task = bar.add_task('', total=total)
    yield lambda: bar.advance(task)


if __name__ == '__main__':
  exits.main(main)
