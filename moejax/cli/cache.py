"""Packs the text of a config into records, and checks records that exist.

  moejax cache --config=tiny
  moejax cache --config=tiny --config.data.files='/my/data/*.jsonl.gz'

Training packs missing records by itself, and checks only the sizes of records
over 256 MB; this command compares the checksum of every byte. It is for long
texts, and for machines that train without TensorFlow, to which data.cache_dir
can be copied.

Text is encoded by a process on each core (--processes). Before a text is
packed, a line says how much time and disk it will take. After an interruption
the same command goes on where it stopped. The records are the same for any
number of processes and interruptions.

--show=3 prints three rows as the model reads them: text by document, targets
and loss weights. A text that is not packed yet is read from its beginning.

--beam packs missing records as an Apache Beam pipeline, and takes Beam's own
flags; docs/data.md says more:

  moejax cache --config=tiny --beam
  moejax cache --config=tiny --output=gs://bucket/caches \
    --beam='--runner=DataflowRunner --project=p --temp_location=gs://bucket/tmp'

--prune removes caches that no run has opened for 30 days; without --yes it only
lists them. --config is needed if it sets data.cache_dir:

  moejax cache --prune
  moejax cache --prune --unused_days=7 --yes
"""

from collections.abc import Sequence

from moejax import config
from moejax.core import command, errors, exits
from moejax.core.console import Console
from moejax.run import cache_actions


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
  add(
    '--processes',
    type=command.number(int, 1, 1024),
    help='that encode text (default: one for each core)',
  )
  rows = command.number(int, 1, 1000)
  add('--show', type=rows, help='print rows as the model reads them')
  add(
    '--beam', nargs='?', const=' ', help='pack with Apache Beam, by its flags'
  )
  add('--output', default='', help='for --beam: gs://... for the caches')
  args, overrides = command.parse(flags, argv)
  console = Console(highlight=False, markup=False)
  if args.prune:
    run = config.load(args.config) if args.config else config.Run()
    days_and_yes = args.unused_days, args.yes
    cache_actions.remove_unused(run, overrides, console, *days_and_yes)
    return
  if not args.config:
    raise errors.InputError('--config is needed, or --prune; see --help')
  run = config.load(args.config, overrides)
  if args.output and not args.beam:
    raise errors.InputError(
      f'--output={args.output} needs --beam; without it the rows are in '
      'data.cache_dir'
    )
  if args.show:
    cache_actions.show(run, console, args.show)
    return
  if args.beam:
    cache_actions.pack_with_beam(run, console, args.beam, args.output)
    return
  cache_actions.pack(run, console, args.processes or 0)


if __name__ == '__main__':
  exits.main(main)
