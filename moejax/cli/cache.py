"""Packs the text of a config into records, and checks those that are there.

  python -m moejax.cli.cache --config=configs/tiny.py
  python -m moejax.cli.cache --config=configs/tiny.py \
    --config.data.files='/my/data/*.jsonl.gz'

Training does the same by itself when records are missing; of records over
256 MB it checks only the sizes, where this compares every byte's checksum.
Doing it beforehand is for long texts, and for machines that train without
TensorFlow: copy data.cache_dir there. Interrupted, it goes on where it was when
run again.

Caches that no run has opened for 30 days can be removed; without --yes it only
lists them. --config is needed where it sets data.cache_dir:

  python -m moejax.cli.cache --prune
  python -m moejax.cli.cache --prune --unused_days=7 --yes
"""

import argparse
import contextlib
import time
from collections.abc import Iterator, Sequence

import rich.box
from rich import progress as bars
from rich.console import Console
from rich.table import Table

from moejax import config
from moejax.core import command, config_tree, errors, exits
from moejax.data import build, cache, cache_writer, prune


def main(argv: Sequence[str]) -> None:
  """Makes what is missing, verifies all, and prints a table of it."""
  flags = command.parser(__doc__)
  flags.add_argument('--config', help='path[:arg] of a config')
  flags.add_argument('--prune', action='store_true', help='remove old caches')
  flags.add_argument(
    '--unused_days', type=float, default=30.0, help='what is old, for --prune'
  )
  flags.add_argument(
    '--yes', action='store_true', help='--prune removes, not only lists'
  )
  args, overrides = command.parse(flags, argv)
  if args.prune:
    _prune(args, overrides)
    return
  if not args.config:
    raise errors.InputError('--config is needed, or --prune; see --help')
  run = config.load(args.config, overrides)
  console = Console(highlight=False, markup=False)
  with _shown(console, build.num_caches(run.data)) as report:
    data = build.build(run.data, run.train.batch_size, run.seed, report)
  if data.vocab is None:
    console.print('This config makes its rows up: there is nothing to pack.')
    return
  _verify(data, console)
  _show(data, console)
  console.print(
    f'in {build.cache_dir(run.data)}, checksums verified', soft_wrap=True
  )


def _prune(
  args: argparse.Namespace, overrides: Sequence[tuple[str, str]]
) -> None:
  """Lists the caches of a folder, and with --yes removes the unused ones."""
  if not args.unused_days >= 0:  # nor is nan
    raise errors.InputError(
      f'--unused_days={args.unused_days} must be 0 or more'
    )
  if args.config:
    run = config.load(args.config, overrides)
  else:
    run = config_tree.override_all(config.Run(), overrides)
  folder, now = build.cache_dir(run.data), time.time()
  console = Console(highlight=False, markup=False)
  entries = prune.entries(folder, args.unused_days, now)
  _show_entries(entries, now, console)
  old = [entry for entry in entries if not entry.kept]
  verb = 'would be removed'
  if args.yes:
    verb = 'removed'
    old = [entry for entry in old if prune.remove(entry.path)]
    prune.forget(folder)
  size = _size(sum(entry.size for entry in old))
  more = '' if args.yes or not old else '; run again with --yes to remove them'
  console.print(
    f'{len(old)} of {len(entries)} caches in {folder} {verb}, {size}{more}',
    soft_wrap=True,
  )


def _show_entries(
  entries: Sequence[prune.CacheEntry], now: float, console: Console
) -> None:
  if not entries:
    return
  table = Table(box=rich.box.SIMPLE_HEAD)
  table.add_column('cache', overflow='fold')
  table.add_column('size', justify='right', no_wrap=True)
  table.add_column('last used', no_wrap=True)
  table.add_column('stays because')
  for entry in entries:
    days = max(0, int((now - entry.used) / prune.DAY))
    when = f'{days} day{"s" * (days != 1)} ago' if days else 'today'
    table.add_row(entry.path.name, _size(entry.size), when, entry.kept or '-')
  console.print(table)


def _size(num_bytes: int) -> str:
  """Example: 1234567 as '1.2 MB'."""
  for unit, name in ((1e9, 'GB'), (1e6, 'MB'), (1e3, 'kB')):
    if num_bytes >= unit:
      return f'{num_bytes / unit:,.1f} {name}'
  return f'{num_bytes} bytes'


@contextlib.contextmanager
def _shown(console: Console, total: int) -> Iterator:
  """A bar on a terminal, a line for each note and each cache that was made."""
  columns = (
    bars.SpinnerColumn(),
    bars.TextColumn('{task.description}'),
    bars.BarColumn(),
    bars.MofNCompleteColumn(),
    bars.TimeElapsedColumn(),
  )
  with bars.Progress(*columns, console=console, transient=True) as bar:
    task = bar.add_task('reading text', total=total)
    making = set()

    def report(found: cache_writer.Progress) -> None:
      if found.note:
        console.print(f'{found.name}: {found.note}', soft_wrap=True)
        return
      counts = f'{found.num_documents:,} documents, {found.num_tokens:,} tokens'
      bar.update(task, description=f'{found.name}: {counts}')
      if found.done:
        bar.advance(task)
      else:
        making.add(found.name)
      if found.done and found.name in making:
        console.print(f'{found.name}: {counts}', soft_wrap=True)

    yield report


def _verify(data: build.Data, console: Console) -> None:
  with console.status('comparing checksums'):
    for domain in data.domains.values():
      for rows in (domain.train, domain.validation):
        if isinstance(rows, cache.RowCache):  # made-up rows have no files
          rows.verify()


def _show(data: build.Data, console: Console) -> None:
  table = Table(box=rich.box.SIMPLE_HEAD)
  table.add_column('domain', no_wrap=True)
  table.add_column('split', no_wrap=True)
  for name in ('documents', 'bytes', 'tokens', f'rows of {data.length}'):
    table.add_column(name, justify='right', no_wrap=True)
  for name, domain in data.domains.items():
    for split in domain.task.splits:
      meta = getattr(domain, split).meta
      counts = (
        meta.num_documents,
        meta.num_bytes,
        meta.num_tokens,
        meta.num_rows,
      )
      table.add_row(name, split, *(f'{count:,}' for count in counts))
  console.print(table)


if __name__ == '__main__':
  exits.main(main)
