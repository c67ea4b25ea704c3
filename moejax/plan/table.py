"""A plan on the screen."""

from collections.abc import Sequence

import rich.box
from rich.console import Console
from rich.table import Table

from moejax.plan import plan, roofline, search

GIB = 2**30


def say(line: str) -> None:
  """A line of progress."""
  _console().print(line)


def show(found: plan.Plan) -> None:
  """All tables of one plan."""
  console = _console()
  _head(console, found)
  console.print(_memory(found))
  if found.collectives:
    console.print(_collectives(found))
  if found.times is not None:
    console.print(_times(found.times))
    console.print(_budget(found))
  for line in _doubts(found):
    console.print(f'  Not in these figures: {line}.')
  for source, what in plan.SOURCES.items():
    console.print(f'  {source}: {what}.')


def show_search(rows: Sequence[search.Row]) -> None:
  """What was tried, the best first."""
  table = _table('', 'mesh', 'remat')
  for name in (
    'rows',
    'micro-batches',
    'chunks',
    'GiB a device',
    'step s',
    'utilisation',
    'compiled in s',
  ):
    table.add_column(name, justify='right')
  table.add_column('note')
  for number, row in enumerate(rows, 1):
    table.add_row(
      str(number),
      row.candidate.mesh_text,
      row.candidate.remat,
      str(row.candidate.batch_size),
      str(row.candidate.micro_batches),
      str(row.candidate.token_chunks),
      _or_dash(row.total and row.total / GIB, '{:.1f}'),
      _or_dash(row.step, '{:.2f}'),
      _or_dash(row.utilisation, '{:.1%}'),
      _or_dash(row.seconds, '{:.0f}'),
      row.note,
    )
  _console().print(table)


def _console() -> Console:
  return Console(highlight=False)


def _table(*columns: str) -> Table:
  table = Table(box=rich.box.SIMPLE_HEAD)
  for name in columns:
    table.add_column(name)
  return table


def _head(console: Console, found: plan.Plan) -> None:
  run, counted = found.run, found.counted
  mesh = ', '.join(f'{k}={v}' for k, v in found.mesh.items() if v > 1)
  lines = {
    'parameters': f'{counted.total / 1e9:.3f}B, {counted.active / 1e9:.3f}B '
    'active (arithmetic)',
    'model FLOPs': f'{found.model_flops / found.tokens:.4g} a token, '
    f'{found.model_flops:.4g} a step (arithmetic)',
    'devices': f'{found.where.name}: {len(found.where.devices)} on '
    f'{found.where.chips} chips; mesh {mesh or "of one device"}',
    'step': f'{run.train.batch_size} rows of {run.data.sequence_length} tokens '
    f'in {run.train.micro_batches} micro-batches, remat={run.model.remat}',
    'compiled in': f'{found.seconds["lower"]:.0f} s to lower, '
    f'{found.seconds["compile"]:.0f} s to compile',
  }
  for name, text in lines.items():
    console.print(f'  {name:<14}{text}')


def _memory(found: plan.Plan) -> Table:
  table = _table('memory of a device', 'GiB', 'source')
  table.columns[1].justify = 'right'
  table.show_footer = True
  for part, size, source in found.memory.rows():
    table.add_row(part, f'{size / GIB:.2f}', source)
  limit = found.where.memory / GIB
  total = found.memory.total / GIB
  verdict = 'fits' if found.fits else 'DOES NOT FIT'
  table.columns[0].footer = f'{verdict}: of {limit:.1f} GiB'
  at_least = 'at least ' if found.memory.refusal else ''
  table.columns[1].footer = f'{at_least}{total:.2f}'
  if found.memory.refusal:
    table.columns[2].footer = f'compiler: {found.memory.refusal}'
  return table


def _collectives(found: plan.Plan) -> Table:
  table = _table('collectives', 'mesh axes', 'GB a device sends in a step')
  table.columns[2].justify = 'right'
  sizes = sorted(found.collectives.items(), key=lambda item: -item[1])
  for (kind, axes), size in sizes:
    table.add_row(kind, axes, f'{size / 1e9:.3f}')
  return table


def _times(times: roofline.Times) -> Table:
  table = _table('seconds of a step', '', 'source')
  table.columns[1].justify = 'right'
  rows = [
    ('fusions', times.fusions, 'compiler'),
    ('Pallas kernels', times.kernels, 'arithmetic, assumed share'),
    ('gathers and copies', times.rest, 'arithmetic'),
    ('collectives not hidden', times.exposed, 'arithmetic'),
    ('compiler, in all', times.compiler, ''),
    ('roofline: compute', times.compute, 'arithmetic on the program'),
    ('roofline: memory', times.memory, 'arithmetic on the program'),
    ('roofline: network', times.network, 'arithmetic on the program'),
    (f'roofline, bound by {times.bound}', times.roofline, ''),
  ]
  for name, value, source in rows:
    table.add_row(name, f'{value:.3f}', source)
  return table


def _budget(found: plan.Plan) -> Table:
  budget = found.tokens * found.run.train.steps
  table = _table(f'{budget / 1e9:,.1f}B tokens')
  for name in ('step s', 'utilisation', 'tokens/s', 'days', 'chip-hours'):
    table.add_column(name, justify='right')
  for name, values in found.estimates().items():
    table.add_row(
      f'{name} estimate',
      f'{values["step_seconds"]:.2f}',
      f'{values["model_flops_utilisation"]:.1%}',
      f'{values["tokens_per_second"]:,.0f}',
      f'{values["days"]:,.2f}',
      f'{values["chip_hours"]:,.0f}',
    )
  return table


def _doubts(found: plan.Plan) -> list[str]:
  """What the program does that was not counted."""
  cost = found.cost
  lines: list[str] = []
  if cost is None:
    return lines
  if cost.optional_flops > 0:
    lines.append(
      f'{cost.optional_flops:.3g} FLOPs a device in branches that may not be '
      'taken'
    )
  if cost.unknown_loops:
    lines.append(
      f'{cost.unknown_loops} loops of unknown length, counted as one trip'
    )
  return lines


def _or_dash(value: float | None, form: str) -> str:
  return '-' if value is None else form.format(value)
