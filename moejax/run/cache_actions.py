"""Actions of the cache command: pack texts, show rows, prune old caches."""

import time
from collections.abc import Sequence

from rich.console import Console

from moejax.config import Run
from moejax.core import config_tree, errors
from moejax.data import beam_cache, build, preview, prune
from moejax.run import cache_tables, row_view


def pack(run: Run, console: Console, processes: int = 0) -> None:
  """Packs missing records of a run, verifies all, and prints tables.

  Args:
    run: its `data` names the text.
    console: where to print.
    processes: that encode text; 0 means one for each core.
  """
  with cache_tables.progress(console, build.num_caches(run.data)) as report:
    data = build.build(
      run.data,
      run.train.batch_size,
      run.seed,
      report,
      processes=processes,
      steps=run.train.steps,
    )
  if data.vocab is None:
    console.print('This config has made-up rows: there is nothing to pack.')
    return
  with console.status('comparing checksums'):
    data.verify()
  console.print(cache_tables.contents(data))
  console.print(cache_tables.packing(data))
  if (removed := cache_tables.removed(data)) is not None:
    console.print(removed)
  console.print(
    f'in {build.cache_dir(run.data)}, checksums verified', soft_wrap=True
  )


def pack_with_beam(
  run: Run, console: Console, flags: str, output: str = ''
) -> None:
  """Packs missing records as an Apache Beam pipeline, as `pack` does.

  Args:
    run: its `data` names the text.
    console: where to print.
    flags: Beam's own.
    output: a folder of caches on gs:// and the like; '' means the run's.

  Raises:
    InputError: `output` is on a disk.
  """
  if output and '://' not in output:
    raise errors.InputError(
      f'--output={output} must be a folder of an object store, such as '
      'gs://bucket/caches; for a folder on a disk set '
      f'--config.data.cache_dir={output}'
    )
  with cache_tables.progress(console, build.num_caches(run.data)) as report:
    request = build.packing_request(run.data, report)
    for text in build.text_sources(run.data).values():
      for split in text.splits if text.has_text else ():
        path = beam_cache.make(text, split, request, flags, output)
        console.print(f'{text.name} {split}: {path}', soft_wrap=True)
  if '://' in output:
    console.print(
      f'Copy these folders to {build.cache_dir(run.data)} (data.cache_dir) on '
      'the machines that train.',
      soft_wrap=True,
    )
    return
  pack(run, console)


def show(run: Run, console: Console, count: int) -> None:
  """Prints the first rows of a run as the model reads them.

  Args:
    run: its `data` names the text.
    console: where to print.
    count: number of rows.
  """
  view = preview.first_rows(run.data, run.train.batch_size, run.seed, count)
  if view is None:
    console.print('This config has made-up rows: there is no text to show.')
    return
  row_view.show(view, run.data.vocab, console)


def remove_unused(
  run: Run,
  overrides: Sequence[tuple[str, str]],
  console: Console,
  days: float,
  yes: bool,
) -> None:
  """Lists the caches of a folder, and removes the unused ones.

  Args:
    run: its `data.cache_dir` is the folder.
    overrides: keys that replace those of the run; only that one is allowed.
    console: where to print.
    days: without use, for a cache to be unused.
    yes: whether to remove them, not only to list them.
  """
  run = config_tree.override_all(run, overrides)
  for key, text in overrides:
    if key != 'data.cache_dir':
      raise errors.InputError(
        f'--config.{key}={text} does nothing with --prune; leave it out: '
        'data.cache_dir alone is used'
      )
  folder, now = build.cache_dir(run.data), time.time()
  entries = prune.entries(folder, days, now)
  if entries:
    console.print(cache_tables.unused(entries, now))
  old = [entry for entry in entries if not entry.kept]
  verb, hint = 'would be removed', '; run again with --yes to remove them'
  if yes:
    verb, hint = 'removed', ''
    old = [entry for entry in old if prune.remove(entry.path)]
    prune.forget(folder)
  size = cache_tables.size(sum(entry.size for entry in old))
  console.print(
    f'{len(old)} of {len(entries)} caches in {folder} {verb}, {size}'
    f'{hint if old else ""}',
    soft_wrap=True,
  )
