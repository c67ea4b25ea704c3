"""Progress and tables of data caches on a terminal, for `cli.cache`."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import rich.box
from rich import progress as bars
from rich.console import Console
from rich.table import Table

from moejax.data import build, cache, cache_writer, prune
from moejax.data.request import Expected


@contextlib.contextmanager
def progress(
  console: Console, total: int
) -> Iterator[Callable[[cache_writer.Progress], None]]:
  """A callback for `data.build` that shows progress.

  For each cache that is made it prints a line with the work ahead and a line
  when it is done, and between them draws a bar over the bytes of the text.

  Args:
    console: where to.
    total: number of caches.
  """
  columns = (
    bars.SpinnerColumn(),
    bars.TextColumn('{task.description}'),
    bars.BarColumn(),
    bars.TaskProgressColumn(),
    bars.TimeElapsedColumn(),
    bars.TextColumn('left:'),
    bars.TimeRemainingColumn(compact=True),
  )
  with bars.Progress(*columns, console=console, transient=True) as bar:
    task = bar.add_task('reading text', total=None)
    making: set[str] = set()
    number = 1

    def report(state: cache_writer.Progress) -> None:
      nonlocal number
      if state.note:
        console.print(f'{state.name}: {state.note}', soft_wrap=True)
        return
      counts = f'{state.num_documents:,} documents, {state.num_tokens:,} tokens'
      if state.done:
        if state.name in making:
          console.print(f'{state.name}: {counts}', soft_wrap=True)
        number += 1
        bar.reset(task, total=None, description='reading text')
        return
      if state.name not in making:
        making.add(state.name)
        if state.expected:
          line = f'{state.name}: {work(state.expected)}'
          console.print(line, soft_wrap=True)
          # With steps, the share of the text that is packed is not known.
          known = not state.expected.proviso
          bar.reset(task, total=state.expected.num_bytes if known else None)
        elif state.unknown:
          line = f'{state.name}: no estimate of the work: {state.unknown}'
          console.print(line, soft_wrap=True)
      text = f'cache {number} of {total}, {state.name}: {counts}'
      bar.update(task, description=text, completed=state.num_bytes)

    yield report


def work(expected: Expected) -> str:
  """The work of packing a text, as text.

  Example: 'about 1.2 GB of text, 290 million tokens: 1.2 GB of rows, 2 minutes
  with 8 processes'
  """
  with_processes = 'process' if expected.processes == 1 else 'processes'
  proviso = f', {expected.proviso}' if expected.proviso else ''
  return (
    f'about {size(expected.num_bytes)} of text, {_count(expected.num_tokens)} '
    f'tokens: {size(expected.row_bytes)} of rows, {_time(expected.seconds)} '
    f'with {expected.processes} {with_processes}{proviso}'
  )


def _count(number: int) -> str:
  for unit, name in ((1e9, 'billion'), (1e6, 'million')):
    if number >= unit:
      return f'{number / unit:,.1f} {name}'
  return f'{number:,}'


def _time(seconds: float) -> str:
  """Seconds as '1 second', '40 seconds', '3 minutes' or '5.2 hours'."""
  if seconds >= 2 * 3600:
    return f'{seconds / 3600:,.1f} hours'
  if seconds >= 120:
    return f'{seconds / 60:.0f} minutes'
  whole = max(1, round(seconds))
  return f'{whole} second{"s" * (whole > 1)}'


def contents(data: build.Data) -> Table:
  """Documents, bytes, tokens and rows of each split."""
  rows = f'rows of {data.length}'
  table = _by_split('documents', 'bytes', 'tokens', rows)
  for name, split, meta in _metas(data):
    counts = (
      meta.num_documents,
      meta.num_bytes,
      meta.num_tokens,
      meta.num_rows,
    )
    table.add_row(name, split, *(f'{count:,}' for count in counts))
  return table


def packing(data: build.Data) -> Table:
  """How well the documents of each split fit into its rows.

  `text` is the share of the rows' tokens that are text; the rest is padding.
  `documents cut` are those in more than one row.
  """
  table = _by_split('text', 'documents cut')
  for name, split, meta in _metas(data):
    cut = '-' if meta.num_cut is None else f'{meta.num_cut:,}'
    share = _share(meta.num_cut or 0, meta.num_documents)
    text = f'{meta.share_of_text:.2%}'
    table.add_row(name, split, text, f'{cut} ({share})')
  return table


def removed(data: build.Data) -> Table | None:
  """What each step removed from each split; None if nothing was removed.

  Shares are of the documents and bytes that reached the step. Below a step are
  the documents that each of its rules removed.
  """
  table = _by_split('documents', 'bytes', left=['removed by'])
  for name, split, meta in _metas(data):
    for step in meta.removed:
      if step.documents:
        share = _share(step.documents, step.documents_before)
        num_bytes = _share(step.bytes, step.bytes_before)
        documents = f'{step.documents:,} ({share})'
        table.add_row(name, split, step.step, documents, num_bytes)
        for rule, count in sorted(step.rules.items()):
          table.add_row('', '', f' {rule}', f'{count:,}{" " * len(share)}   ')
  return table if table.rows else None


def _by_split(*columns: str, left: Sequence[str] = ()) -> Table:
  """A table with rows for each split of each domain.

  Args:
    columns: further columns, of numbers.
    left: those of text, which come first.
  """
  table = Table(box=rich.box.SIMPLE_HEAD)
  for name in ('domain', 'split', *left):
    table.add_column(name, no_wrap=True)
  for name in columns:
    table.add_column(name, justify='right', no_wrap=True)
  return table


def _metas(data: build.Data) -> Iterator[tuple[str, str, cache.Meta]]:
  """The caches of each split of each domain."""
  for name, domain in data.domains.items():
    for split in domain.task.splits:
      yield name, split, getattr(domain, split).meta


def _share(part: int, whole: int) -> str:
  return f'{part / max(1, whole):.1%}'


def unused(entries: Sequence[prune.CacheEntry], now: float) -> Table:
  """Size and last use of each cache, and why it is kept.

  Args:
    entries: the caches.
    now: the present time, in seconds since the epoch.
  """
  table = Table(box=rich.box.SIMPLE_HEAD)
  table.add_column('cache', overflow='fold')
  table.add_column('size', justify='right', no_wrap=True)
  table.add_column('last used', no_wrap=True)
  table.add_column('stays because')
  for entry in entries:
    days = max(0, int((now - entry.used) / prune.DAY))
    when = f'{days} day{"s" * (days != 1)} ago' if days else 'today'
    table.add_row(entry.path.name, size(entry.size), when, entry.kept or '-')
  return table


def size(num_bytes: int) -> str:
  """A number of bytes as text, such as 1234567 as '1.2 MB'."""
  for unit, name in ((1e9, 'GB'), (1e6, 'MB'), (1e3, 'kB')):
    if num_bytes >= unit:
      return f'{num_bytes / unit:,.1f} {name}'
  return f'{num_bytes} bytes'
