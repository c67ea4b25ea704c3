"""Packs the text of a config into records, and checks those that are there.

  python -m moejax.cli.cache --config=configs/tiny.py
  python -m moejax.cli.cache --config=configs/tiny.py \
    --config.data.files='/my/data/*.jsonl.gz'

Training does the same by itself when records are missing; of records over
256 MB it checks only the sizes, where this compares every byte's checksum.
Doing it beforehand is for long texts, and for machines that train without
TensorFlow: copy data.cache_dir there. Interrupted, it goes on where it was when
run again.
"""

import contextlib
from collections.abc import Iterator, Sequence

import rich.box
from rich import progress as bars
from rich.console import Console
from rich.table import Table

from moejax.cli import command, run_config
from moejax.data import build, cache_writer


def main(argv: Sequence[str]) -> None:
  """Makes what is missing, verifies all, and prints a table of it."""
  flags = command.parser(f'{__doc__}\n{command.__doc__}')
  flags.add_argument('--config', required=True, help='path[:arg] of a config')
  args, overrides = command.parse(flags, argv)
  run = run_config.load(args.config, overrides)
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
      domain.train.verify()
      domain.validation.verify()


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
  command.main(main)
