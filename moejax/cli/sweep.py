r"""Trains every run of a list, and compares them in one table.

  python -m moejax.cli.sweep --sweep=configs/sweeps/routers.py --list
  python -m moejax.cli.sweep --sweep=configs/sweeps/routers.py --processes=2 \
    --out=docs/routers.md
  python -m moejax.cli.sweep --sweep=configs/sweeps/routers.py \
    --only=switch,gshard --config.train.steps=50 --workdir=runs/short

A sweep file is Python with `get_sweep()`; see `moejax/sweep/grid.py` for
how to write one. `--config.*` is for all its runs, after what the file says.

Run the same command again: runs that are finished stay as they are, one that
was interrupted goes on from its last checkpoint, and one that failed is tried
again. A run that fails does not stop the others. What the workdir holds:

  <run>/           a training run as moejax.main makes it, and its log.txt
  compile_cache/   compiled programs, for all runs of one shape
  sweep.json       what is known of each run beside its folder
  results.json     every number of the table, and of each run
  results.md       the table: bits per byte with its spread over seeds, balance,
                   dropped assignments, speed, parameters; best first
  results.png      a picture of it (needs pip install 'moejax[plot]')

--out=FILE puts table and picture into a document as well, between the lines
`<!-- begin sweep NAME -->` and `<!-- end sweep NAME -->`, where NAME is that of
the sweep file; a file that is not there is made.

--processes=N trains N runs at a time, each on its share of this machine's
cores: on a CPU, where one run does not use all of them well. A training step is
then slower than alone, which the table's tokens/s says. Not for accelerators,
which one process takes whole. Where a run is short, its evaluation at the end
counts: set report.eval_batches and report.samples in the sweep file.
"""

import importlib.util
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from moejax import config as configs
from moejax.core import (
  command,
  compile_cache,
  errors,
  exits,
  files,
  resume,
  table,
  terminal,
)
from moejax.run import compatibility, report, screen
from moejax.sweep import grid, pool
from moejax.sweep import results as results_lib
from moejax.sweep import table as table_lib
from moejax.sweep.grid import SweepRun
from moejax.sweep.results import Result

TABLE, PICTURE, NUMBERS = 'results.md', 'results.png', 'results.json'


class _Sweep:
  """A sweep file, its runs' configs, and its workdir."""

  def __init__(
    self, path: str, overrides: Sequence[tuple[str, str]], workdir: str
  ):
    """Reads and checks everything; trains nothing.

    Raises:
      InputError: in the sweep file or the config of any run.
    """
    self.name = pathlib.Path(path).stem
    self.path = path
    self.folder = epath.Path(workdir)
    self.runs = grid.load(path)
    self._overrides = tuple(overrides)
    self.configs = {one.name: self._config(one) for one in self.runs}

  def _config(self, one: SweepRun) -> configs.Run:
    try:
      folder = os.fspath(self.folder / one.name)
      return configs.load(one.config, self.overrides(one), folder)
    except errors.InputError as e:
      raise errors.InputError(f'{self.path}: run {one.name!r}: {e}') from e

  def overrides(self, one: SweepRun) -> list[tuple[str, str]]:
    """All that is changed of its config file; flags replace the sweep's."""
    given = dict(self._overrides)
    own = [(k, v) for k, v in one.all_overrides if k not in given]
    return [*own, *self._overrides]

  def changed(self) -> dict[str, str]:
    """Of each run that the folder has of another config: what differs."""
    found = {}
    for name, config in self.configs.items():
      folder = self.folder / name
      keys = dict(compatibility.different(config, folder))
      if report.read(folder) is not None:
        # No process would look at it again: it would be in the table as it is.
        keys |= compatibility.stale(config, folder)
      if keys:
        found[name] = resume.listed(keys)
    return found

  def is_done(self, result: Result) -> bool:
    """Whether nothing is left to do of a run: its report is that of now."""
    config, folder = self.configs[result.name], self.folder / result.name
    return (
      result.status == results_lib.FINISHED
      # Of one that another command has trained the parameters are not known.
      and result.total is not None
      and config.report == configs.of_workdir(str(folder)).report
    )

  def check_folders(self) -> None:
    """Raises InputError if a folder has a run of another config.

    That comes of a sweep file, a config file or flags that have changed since.
    """
    changed = self.changed()
    if not changed:
      return
    name, keys = next(iter(changed.items()))
    more = f' and {len(changed) - 1} more' if len(changed) > 1 else ''
    raise errors.InputError(
      f'the sweep has changed since {self.folder} was made: run {name!r}{more} '
      f'was trained with another config: {keys}. To keep both, use another '
      f'--workdir; to train {"them" if more else "it"} anew, remove '
      f'{self.folder / name}{" and the others" if more else ""}; --list shows '
      'all'
    )

  def results(self) -> list[Result]:
    """How far every run is."""
    kept = results_lib.records(self.folder)
    return [
      results_lib.read(
        one,
        self.configs[one.name].train.steps,
        self.folder / one.name,
        kept.get(one.name, {}),
      )
      for one in self.runs
    ]

  def what(self) -> str:
    """What was trained and on how much it was measured, where all agree."""
    found = self.configs.values()
    sizes = {
      (c.train.steps, c.train.batch_size * c.data.sequence_length)
      for c in found
    }
    limits = {c.report.eval_batches for c in found}
    parts = []
    if len(sizes) == 1:
      ((steps, tokens),) = sizes
      parts.append(f'Each trained for {steps:,} steps of {tokens:,} tokens.')
    if len(limits) == 1 and limits != {0}:
      (limit,) = limits
      batches = 'batch' if limit == 1 else f'{limit} batches'
      parts.append(f'Measured on the first {batches} of each validation set.')
    return ' '.join(parts)

  def chosen(self, only: str) -> list[SweepRun]:
    """The runs of `--only`: names of runs or of groups."""
    words = [word for word in only.split(',') if word]
    known = {one.name for one in self.runs} | {one.group for one in self.runs}
    for word in words:
      if word not in known:
        raise table.unknown('run in --only', word, known)
    return [
      one
      for one in self.runs
      if not words or one.name in words or one.group in words
    ]


def main(argv: Sequence[str]) -> None:
  """Reads the flags, trains what is not finished, and shows the table."""
  flags = command.parser(__doc__)
  flags.add_argument('--sweep', required=True, help='path of a sweep file')
  flags.add_argument('--workdir', help='default: runs/<name of the sweep file>')
  flags.add_argument(
    '--processes',
    type=command.number(int, 1),
    default=1,
    help='runs at a time',
  )
  flags.add_argument('--only', default='', help='names, separated by commas')
  flags.add_argument('--out', help='a Markdown file for the table')
  flags.add_argument('--list', action='store_true', help='train nothing')
  args, overrides = command.parse(flags, argv)
  workdir = args.workdir or configs.default_workdir(args.sweep)
  sweep = _Sweep(args.sweep, overrides, workdir)
  chosen = sweep.chosen(args.only)
  if args.list:
    _show_list(sweep, chosen)
    return
  out = None if args.out is None else pathlib.Path(args.out)
  if out:
    files.check_output(args.out, '--out')
    table_lib.check_place(out, sweep.name)
  sweep.check_folders()
  files.check_writable(sweep.folder)
  with files.locked(sweep.folder, print):
    try:
      _train(sweep, chosen, args.processes)
    finally:
      _finish(sweep, out)
  _raise_if_failed(sweep, chosen)


def _show_list(sweep: _Sweep, chosen: Sequence[SweepRun]) -> None:
  results = {result.name: result for result in sweep.results()}
  changed = sweep.changed()
  width = max(len(one.name) for one in chosen)
  num = 0
  for one in chosen:
    result = results[one.name]
    how = ' '.join(f'{k}={v}' for k, v in sweep.overrides(one))
    state = ' '.join(filter(None, (result.status, result.note)))
    if one.name in changed:
      # What is there is another run: nothing is known of this one.
      state = f'another config: {changed[one.name]}'
    num += one.name not in changed and result.status == results_lib.FINISHED
    print(f'{one.name:<{width}}  {state:<12}  {one.config} {how}')
  print(f'{num} of {len(chosen)} finished, in {sweep.folder}')


def _train(sweep: _Sweep, chosen: Sequence[SweepRun], processes: int) -> None:
  """Trains what is not finished, and says how it goes."""
  before = {result.name: result for result in sweep.results()}
  todo = [one for one in chosen if not sweep.is_done(before[one.name])]
  processes = min(processes, max(1, len(todo)))
  print(
    f'Sweep {sweep.name}: {len(chosen)} runs, '
    f'{len(chosen) - len(todo)} of them finished before; '
    f'{processes} at a time. All is kept in {sweep.folder}.'
  )
  told = _Told(sweep, len(todo), processes)
  pool.run(
    [_job(sweep, one) for one in todo],
    processes,
    environment(sweep.folder),
    told.started,
    told.ended,
  )


def _job(sweep: _Sweep, one: SweepRun) -> pool.Job:
  folder = os.fspath(sweep.folder / one.name)
  return pool.Job(one.name, one.config, sweep.overrides(one), folder)


def environment(folder: epath.Path) -> Mapping[str, str]:
  """Of the processes: compiled programs are kept, for all runs of one shape."""
  return {
    **compile_cache.environment(folder / compile_cache.FOLDER),
    **os.environ,
    'PYTHONUNBUFFERED': '1',  # log.txt is read while it is written
  }


class _Told:
  """Lines about runs that begin and end, and their records."""

  def __init__(self, sweep: _Sweep, total: int, processes: int):
    self._sweep = sweep
    self._total, self._processes = total, processes
    self._done = 0
    self._begin = time.monotonic()

  def started(self, job: pool.Job) -> None:
    _tell(f'{job.name}: started')

  def ended(self, job: pool.Job, answer: pool.Answer) -> None:
    folder = self._sweep.folder
    results_lib.record(folder, job.name, answer, self._processes)
    took = screen.duration(answer.seconds)
    if answer.code == exits.INTERRUPTED:
      _tell(f'{job.name}: interrupted after {took}')
      return
    self._done += 1
    how = f'failed: {answer.message}' if answer.code else f'finished in {took}'
    left = self._total - self._done
    seconds = (time.monotonic() - self._begin) / self._done * left
    _tell(
      f'{job.name}: {how}; {self._done} of {self._total} done, about '
      f'{screen.duration(seconds)} left'
    )


def _tell(line: str) -> None:
  with terminal.outlived():  # the runs are to be saved all the same
    print(line, flush=True)


def _finish(sweep: _Sweep, out: pathlib.Path | None) -> None:
  """Prints the table, and writes all files of the results."""
  results = sweep.results()
  rows, by = table_lib.rows(results), table_lib.measure(results)
  text = table_lib.markdown(rows, by)
  caption = table_lib.caption(results, sweep.what())
  numbers: dict[str, Any] = {
    'sweep': sweep.path,
    **table_lib.to_json(results, rows),
  }
  files.atomic_write_json(sweep.folder / NUMBERS, numbers)
  files.atomic_write_text(sweep.folder / TABLE, f'{text}\n{caption}')
  pictures = [pathlib.Path(sweep.folder / PICTURE)]
  if out:
    pictures.append(out.with_name(f'{sweep.name}.png'))
  plotted = importlib.util.find_spec('matplotlib') is not None
  for picture in pictures if plotted else ():
    table_lib.plot(rows, by, picture)
  if out:
    image = f'\n![{sweep.name}]({sweep.name}.png)\n' if plotted else ''
    table_lib.put(out, sweep.name, f'{text}\n{caption}{image}')
  print(f'\n{text}\n{caption}')
  if not plotted:
    print("No picture: matplotlib is missing; pip install 'moejax[plot]'.")


def _raise_if_failed(sweep: _Sweep, chosen: Sequence[SweepRun]) -> None:
  names = {one.name for one in chosen}
  bad = [
    r.name
    for r in sweep.results()
    if r.name in names and r.status != results_lib.FINISHED
  ]
  if bad:
    raise errors.StoppedError(
      f'{len(bad)} of {len(chosen)} runs failed: {", ".join(bad)}; why is in '
      f'the table and in each log.txt in {sweep.folder}; the same command '
      'tries them again'
    )


if __name__ == '__main__':
  exits.main(main)
