"""Packs the text of a config into records, and checks records that exist.

  python -m moejax.cli.cache --config=configs/tiny.py
  python -m moejax.cli.cache --config=configs/tiny.py \
    --config.data.files='/my/data/*.jsonl.gz'

Training packs missing records by itself, and checks only the sizes of records
over 256 MB; this command compares the checksum of every byte. It is for long
texts, and for machines that train without TensorFlow, to which data.cache_dir
can be copied. After an interruption the same command goes on where it stopped.

--prune removes caches that no run has opened for 30 days; without --yes it only
lists them. --config is needed if it sets data.cache_dir:

  python -m moejax.cli.cache --prune
  python -m moejax.cli.cache --prune --unused_days=7 --yes
"""

import argparse
import time
from collections.abc import Sequence

from rich.console import Console

from moejax import config
from moejax.core import command, config_tree, errors, exits
from moejax.data import build, prune
from moejax.run import cache_tables


def main(argv: Sequence[str]) -> None:
  """Packs missing records, verifies all of them, and prints a table."""
  flags = command.parser(__doc__)
  add = flags.add_argument
  add('--config', help='path[:arg] of a config')
  add('--prune', action='store_true', help='remove old caches')
  days = command.number(float, 0)
  old = 'for --prune: days without use (default: %(default)g)'
  add('--unused_days', type=days, default=30.0, help=old)
  add('--yes', action='store_true', help='for --prune: remove, not only list')
  args, overrides = command.parse(flags, argv)
  console = Console(highlight=False, markup=False)
  if args.prune:
    _prune(args, overrides, console)
    return
  if not args.config:
    raise errors.InputError('--config is needed, or --prune; see --help')
  run = config.load(args.config, overrides)
  with cache_tables.progress(console, build.num_caches(run.data)) as report:
    data = build.build(run.data, run.train.batch_size, run.seed, report)
  if data.vocab is None:
    console.print('This config has made-up rows: there is nothing to pack.')
    return
  with console.status('comparing checksums'):
    data.verify()
  console.print(cache_tables.contents(data))
  console.print(
    f'in {build.cache_dir(run.data)}, checksums verified', soft_wrap=True
  )


def _prune(
  args: argparse.Namespace,
  overrides: Sequence[tuple[str, str]],
  console: Console,
) -> None:
  """Lists the caches of a folder, and with --yes removes the unused ones."""
  run = config.load(args.config) if args.config else config.Run()
  run = config_tree.override_all(run, overrides)
  for key, text in overrides:
    if key != 'data.cache_dir':
      raise errors.InputError(
        f'--config.{key}={text} does nothing with --prune; leave it out: '
        'data.cache_dir alone is used'
      )
  folder, now = build.cache_dir(run.data), time.time()
  entries = prune.entries(folder, args.unused_days, now)
  if entries:
    console.print(cache_tables.unused(entries, now))
  old = [entry for entry in entries if not entry.kept]
  verb, hint = 'would be removed', '; run again with --yes to remove them'
  if args.yes:
    verb, hint = 'removed', ''
    old = [entry for entry in old if prune.remove(entry.path)]
    prune.forget(folder)
  size = cache_tables.size(sum(entry.size for entry in old))
  console.print(
    f'{len(old)} of {len(entries)} caches in {folder} {verb}, {size}'
    f'{hint if old else ""}',
    soft_wrap=True,
  )


if __name__ == '__main__':
  exits.main(main)
