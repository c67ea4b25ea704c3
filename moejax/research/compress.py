"""Study 5: which experts can go, and what is the best way to lose them?

  python -m moejax.research.compress --workdir=runs/compress
  python -m moejax.research.compress --workdir=runs/compress --make
  python -m moejax.research.compress --workdir=runs/compress \
    --recovery=runs/compress_recovery

The first command sweeps over methods of compression on every finished run of
configs/sweeps/compress.py, as `moejax compress --sweep` does. It writes the
tables of docs/studies/compress.md, compress.png and compress.json:

  methods    every method at every number of experts
  order      is the order that of the papers?
  ablation   EASY-EP with and without its factors
  domains    calibrated on one domain, and on all
  tokens     by the amount of calibration text: loss, and how much of the
             choice is the same
  recovery   after more training, with and without a teacher, if --recovery is
             there

--make makes the smaller models that configs/sweeps/compress_recovery.py trains.
A command that was interrupted goes on where it stopped. --imported is the
workdir of an imported model, whose tables are written as well.
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from moejax.compress import METHODS
from moejax.config import user_files
from moejax.core import command, errors, exits, terminal
from moejax.research import comparison, compress_tables, page, runs
from moejax.run import compressing, compression_sweep, statistics_folder
from moejax.run.calibrating import Calibration
from moejax.run.compressing import CompressionRequest
from moejax.run.compression_sweep import SweepRequest

SWEEP = 'configs/sweeps/compress.py'
RECOVERY = 'configs/sweeps/compress_recovery.py'
# Methods whose models differ before they are trained: that of `mc_smoe` is
# merged as by `m_smoe`.
SWEPT = tuple(name for name, one in METHODS.items() if not one.training)
KEEPS = (16, 8)
# Of the tables that compare texts rather than numbers of experts.
KEEP = 8
# Of each domain, in the table that compares amounts of text.
TOKENS = (256, 1024, 4096, 16_384)
ALL = 'all'  # domains

Measured = Mapping[str, Any]


def main(argv: Sequence[str]) -> None:
  """Sweeps over the runs, and writes tables and figure."""
  flags = page.flags(__doc__)
  flags.set_defaults(sweep=SWEEP, workdir='runs/compress')
  add = flags.add_argument
  add('--make', action='store_true', help='make the models for the recovery')
  add('--recovery', help='workdir of the recovered models')
  add('--imported', help='workdir of an imported model')
  names = 'data.vocab.name of the imported model, if it has no tokenizer'
  add('--vocab', help=names)
  at_least_1 = command.number(int, 1)
  batches = 'of each validation set (default: %(default)s)'
  add('--batches', type=at_least_1, default=2, help=batches)
  add('--keep', default=','.join(map(str, KEEPS)), help='numbers of experts')
  args, overrides = command.parse(flags, argv)
  finished = runs.finished(args.sweep, args.workdir, overrides)
  folders = [str(run.workdir) for run in finished]
  if args.make:
    for folder in folders:
      make(folder, epath.Path(args.workdir))
    return
  keeps = [int(number) for number in args.keep.split(',')]
  study = page.Page(args.out, 'compress')
  swept = [sweep(folder, SWEPT, keeps, args.batches) for folder in folders]
  add_methods(study, swept, keeps)
  smallest = min(keeps)
  texts = [by_domain(folder, smallest, args.batches) for folder in folders]
  study.table('domains', compress_tables.domain_rows(texts), texts)
  counts = [by_tokens(folder, smallest, args.batches) for folder in folders]
  study.table('tokens', compress_tables.token_rows(counts), counts)
  vocab = [('data.vocab.name', args.vocab)] if args.vocab else []
  add_imported(study, args.imported, keeps, args.batches, vocab)
  recovered = recoveries(args.recovery, finished, args.batches)
  study.table('recovery', compress_tables.recovery_rows(recovered), recovered)
  terminal.say('\n'.join(study.write(compress_tables.draw(swept))))


@dataclasses.dataclass(frozen=True)
class Text:
  """The text of a calibration, and the file of what was measured with it.

  Attributes:
    name: of the file.
    domains: weights of the domains; '' counts all alike.
    tokens: of all domains together; 0 for 25 documents of each.
    overrides: config keys to change, as dotted paths and texts.
    full: measurements of the full model, if they are known.
  """

  name: str = ALL
  domains: str = ''
  tokens: int = 0
  overrides: Sequence[tuple[str, str]] = ()
  full: Mapping[str, Any] | None = None

  def calibration(self) -> Calibration:
    """What is read for the statistics."""
    if self.tokens:
      return Calibration(documents=0, tokens=self.tokens)
    return Calibration()

  def statistics(self) -> str:
    """The folder of the statistics, in that of the measurements."""
    if self.tokens:
      return f'statistics_{self.tokens}_tokens'
    return f'statistics_{Calibration().documents}'


def sweep(
  workdir: str,
  methods: Sequence[str],
  keeps: Sequence[int],
  batches: int,
  text: Text = Text(),
) -> Measured:
  """Measurements of `compression_sweep.sweep`, kept in the workdir.

  Args:
    workdir: of a run.
    methods: names in METHODS.
    keeps: numbers of experts.
    batches: of each validation set.
    text: of the calibration.
  """
  place = epath.Path(workdir) / compression_sweep.FOLDER
  request = SweepRequest(
    methods=methods,
    keeps=keeps,
    calibration=text.calibration(),
    domains=text.domains,
    statistics=str(place / text.statistics()),
    batches=batches,
    out=str(place / f'{text.name}.json'),
  )
  terminal.note(f'{workdir}: {text.name}')
  result = compression_sweep.sweep(
    workdir, request, text.overrides, full=text.full, note=terminal.note
  )
  return result['measured']


def by_domain(workdir: str, keep: int, batches: int) -> dict[str, Measured]:
  """EASY-EP calibrated on each domain, and on all, by the domain's name."""
  everything = sweep(workdir, ['easy_ep'], [keep], batches)
  full = everything[compression_sweep.FULL]
  result = {ALL: everything}
  for domain in full['sets']:
    text = Text(domain, domains=domain, full=full)
    result[domain] = sweep(workdir, ['easy_ep'], [keep], batches, text)
  return {
    name: compress_tables.losses(measured, 'easy_ep', keep)
    for name, measured in result.items()
  }


def by_tokens(workdir: str, keep: int, batches: int) -> dict[int, Any]:
  """EASY-EP by the number of tokens of each domain.

  Returns:
    By number, the rise of the mean loss, and the share of the choice that is
    also that of the largest number.
  """
  methods, name = ['easy_ep'], compression_sweep.name_of('easy_ep', keep)
  full = sweep(workdir, methods, [keep], batches)[compression_sweep.FULL]
  measured = {}
  for number in TOKENS:
    tokens = number * len(full['sets'])
    text = Text(f'tokens_{number}', tokens=tokens, full=full)
    measured[number] = sweep(workdir, methods, [keep], batches, text)
  last = measured[TOKENS[-1]][name]['kept']
  return {
    number: {
      'rise': compress_tables.rise(one, name),
      'overlap': compress_tables.overlap(one[name]['kept'], last),
    }
    for number, one in measured.items()
  }


def add_methods(
  study: page.Page, swept: Sequence[Measured], keeps: Sequence[int]
) -> None:
  """Adds the tables of all methods, of their order, and of the factors."""
  rises = {
    method: {
      keep: [
        compress_tables.rise(one, compression_sweep.name_of(method, keep))
        for one in swept
      ]
      for keep in keeps
    }
    for method in SWEPT
  }
  study.table('methods', compress_tables.method_rows(rises, keeps), rises)
  order = [
    [str(keep), *map(str, counts.values())]
    for keep in keeps
    for counts in [order_of(rises, keep)]
  ]
  head = ['experts kept', 'as the paper', 'opposite', 'undecided']
  study.table(
    'order',
    [head, *order],
    order,
    'Pairs of methods, by a test of Tukey over the same models '
    f'({comparison.LEVEL:.0%}).',
  )
  study.table('ablation', compress_tables.ablation_rows(rises, keeps), rises)


def order_of(
  rises: Mapping[str, Mapping[int, Sequence[float]]], keep: int
) -> dict[str, int]:
  """How many pairs of methods are in the order of EASY-EP's Table 1."""
  ranked = compress_tables.PUBLISHED
  scores = {name: rises[name][keep] for name in ranked if rises[name][keep]}
  test = comparison.compare_within(scores)
  return comparison.agreement([*ranked], scores, test)


def add_imported(
  study: page.Page,
  workdir: str | None,
  keeps: Sequence[int],
  batches: int,
  overrides: Sequence[tuple[str, str]],
) -> None:
  """Adds the table of an imported model, if there is one."""
  rises: dict[str, dict[int, list[float]]] = {}
  if workdir:
    methods = [*compress_tables.PUBLISHED]
    text = Text(overrides=overrides)
    measured = sweep(workdir, methods, keeps, batches, text)
    rises = {
      method: {
        keep: [
          compress_tables.rise(
            measured, compression_sweep.name_of(method, keep)
          )
        ]
        for keep in keeps
      }
      for method in compress_tables.PUBLISHED
    }
  study.table('imported', compress_tables.method_rows(rises, keeps), rises)


def make(workdir: str, study: epath.Path) -> None:
  """Makes the smaller models of a run that the recovery trains.

  Raises:
    InputError: the sweep over methods has not been here, whose statistics are
      of the right half of the text.
  """
  recovery = user_files.load(RECOVERY, 'sweep')
  place = epath.Path(workdir) / compression_sweep.FOLDER
  kept = place / Text().statistics()
  if not statistics_folder.exists(kept):
    raise errors.InputError(
      f'there are no statistics in {kept}: run this command without --make '
      'before'
    )
  for method in recovery.METHODS:
    to = study / recovery.SMALLER / f'{epath.Path(workdir).name}-{method}'
    if (to / compressing.MANIFEST).exists():
      terminal.note(f'{to}: made before')
      continue
    request = CompressionRequest(
      method=method,
      keep=KEEP,
      statistics=str(kept),
      any_text=True,
    )
    compressing.compress(workdir, str(to), request, note=terminal.note)


def recoveries(
  workdir: str | None, finished: Sequence[runs.FinishedRun], batches: int
) -> dict[str, dict[str, list[float]]]:
  """The rise of the mean loss before and after more training, by method.

  Returns:
    By method, `before`, `text` and `teacher`, with a number for each run that
    is finished.
  """
  if not workdir:
    return {}
  recovery = user_files.load(RECOVERY, 'sweep')
  result: dict[str, dict[str, list[float]]] = {}
  fulls = [mean_loss(str(run.workdir), batches) for run in finished]
  for method in recovery.METHODS:
    rows: dict[str, list[float]] = {'before': [], 'text': [], 'teacher': []}
    for run, full in zip(finished, fulls, strict=True):
      smaller = epath.Path(run.workdir).parent / recovery.SMALLER
      folders = {'before': smaller / f'{run.workdir.name}-{method}'} | {
        kind: epath.Path(workdir) / f'{method}-{kind}-seed={run.seed}'
        for kind in ('text', 'teacher')
      }
      for kind, folder in folders.items():
        if (folder / 'config.json').exists():
          rows[kind].append(mean_loss(str(folder), batches) - full)
    result[method] = rows
  return result


def mean_loss(workdir: str, batches: int) -> float:
  """The loss on the second halves of the validation sets, their mean."""
  scores = compression_sweep.score(workdir, batches, terminal.note)
  return statistics.fmean(one['loss'] for one in scores['sets'].values())


if __name__ == '__main__':
  exits.main(main)
