"""Prints a plan, or the trials of a search, as tables."""

from collections.abc import Sequence

import rich.box
from rich.table import Table

from moejax.config.run import Run
from moejax.core import quantization
from moejax.core.console import Console
from moejax.model import pipeline
from moejax.model.config import ModelConfig
from moejax.plan import plan, roofline, search

GIB = 2**30


def say(line: str) -> None:
  """Prints a line of progress."""
  _console().print(line)


def show(planned: plan.Plan) -> None:
  """Prints all tables of one plan."""
  console = _console()
  _head(console, planned)
  console.print(_memory(planned))
  if planned.collectives:
    console.print(_collectives(planned))
  if planned.times is not None:
    console.print(_times(planned.times))
    console.print(_budget(planned))
  _say_uncounted(console, _uncounted(planned))
  for source, figures in plan.SOURCES.items():
    console.print(f'  {source}: {figures}.')


def show_search(run: Run, trials: Sequence[search.Trial]) -> None:
  """Prints the trials of a search for a run in their order, the best first."""
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
  for number, trial in enumerate(trials, 1):
    table.add_row(
      str(number),
      trial.candidate.mesh_text,
      trial.candidate.remat,
      str(trial.candidate.batch_size),
      str(trial.candidate.micro_batches),
      str(trial.candidate.token_chunks),
      _or_dash(trial.total and trial.total / GIB, '{:.1f}'),
      _or_dash(trial.step, '{:.2f}'),
      _or_dash(trial.utilisation, '{:.1%}'),
      _or_dash(trial.seconds, '{:.0f}'),
      trial.note,
    )
  console = _console()
  console.print(table)
  _say_uncounted(console, _narrow(run.model))


def _console() -> Console:
  return Console(highlight=False)


def _table(*columns: str) -> Table:
  table = Table(box=rich.box.SIMPLE_HEAD)
  for name in columns:
    table.add_column(name)
  return table


def _head(console: Console, planned: plan.Plan) -> None:
  run, counted = planned.run, planned.counted
  mesh = ', '.join(f'{k}={v}' for k, v in planned.mesh.items() if v > 1)
  lines = {
    'parameters': f'{counted.total / 1e9:.3f}B, {counted.active / 1e9:.3f}B '
    'active (arithmetic)',
    'model FLOPs': f'{planned.model_flops / planned.tokens:.4g} a token, '
    f'{planned.model_flops:.4g} a step (arithmetic)',
    'devices': f'{planned.where.name}: {len(planned.where.devices)} on '
    f'{planned.where.chips} chips; mesh {mesh or "of one device"}',
    'step': f'{run.train.batch_size} rows of {run.data.sequence_length} tokens '
    f'in {run.train.micro_batches} micro-batches, remat={run.model.remat}',
    **_pipeline(planned),
    'compiled in': f'{planned.seconds["lower"]:.0f} s to lower, '
    f'{planned.seconds["compile"]:.0f} s to compile',
  }
  for name, text in lines.items():
    console.print(f'  {name:<14}{text}')


def _pipeline(planned: plan.Plan) -> dict[str, str]:
  """The line of the pipeline, whose bubble is in all seconds; or none."""
  run, rows = planned.run, planned.run.train.batch_size
  if planned.mesh.get('stage', 1) == 1:
    return {}
  rows //= run.train.micro_batches
  _, text = pipeline.line(run.model, planned.mesh, rows).split(': ', 1)
  return {'pipeline': f'{text.rstrip(".")}, in all figures (arithmetic)'}


def _memory(planned: plan.Plan) -> Table:
  table = _table('memory of a device', 'GiB', 'source')
  table.columns[1].justify = 'right'
  table.show_footer = True
  for part, size, source in planned.memory.rows():
    table.add_row(part, f'{size / GIB:.2f}', source)
  limit = planned.where.memory / GIB
  total = planned.memory.total / GIB
  verdict = 'fits' if planned.fits else 'DOES NOT FIT'
  table.columns[0].footer = f'{verdict}: of {limit:.1f} GiB'
  at_least = 'at least ' if planned.memory.refusal else ''
  table.columns[1].footer = f'{at_least}{total:.2f}'
  if planned.memory.refusal:
    table.columns[2].footer = f'compiler: {planned.memory.refusal}'
  return table


def _collectives(planned: plan.Plan) -> Table:
  table = _table('collectives', 'mesh axes', 'GB a device sends in a step')
  table.columns[2].justify = 'right'
  sizes = sorted(planned.collectives.items(), key=lambda item: -item[1])
  for (kind, axes), size in sizes:
    table.add_row(kind, axes, f'{size / 1e9:.3f}')
  return table


def _times(times: roofline.Times) -> Table:
  table = _table('seconds of a step', '', 'source')
  table.columns[1].justify = 'right'
  fusions = 'compiler' if times.by_compiler else 'arithmetic, assumed share'
  rows = [
    ('fusions', times.fusions, fusions),
    ('Pallas kernels', times.kernels, 'arithmetic, assumed share'),
    ('gathers and copies', times.rest, 'arithmetic'),
    ('collectives not hidden', times.exposed, 'arithmetic'),
    (f'{times.name}, in all', times.in_turn, ''),
    ('roofline: compute', times.compute, 'arithmetic on the program'),
    ('roofline: memory', times.memory, 'arithmetic on the program'),
    ('roofline: network', times.network, 'arithmetic on the program'),
    (f'roofline, bound by {times.bound}', times.roofline, ''),
  ]
  for name, value, source in rows:
    table.add_row(name, f'{value:.3f}', source)
  return table


def _budget(planned: plan.Plan) -> Table:
  budget = planned.tokens * planned.run.train.steps
  table = _table(f'{budget / 1e9:,.1f}B tokens')
  for name in ('step s', 'utilisation', 'tokens/s', 'days', 'chip-hours'):
    table.add_column(name, justify='right')
  for name, values in planned.estimates().items():
    table.add_row(
      f'{name} estimate',
      f'{values["step_seconds"]:.2f}',
      f'{values["model_flops_utilisation"]:.1%}',
      f'{values["tokens_per_second"]:,.0f}',
      f'{values["days"]:,.2f}',
      f'{values["chip_hours"]:,.0f}',
    )
  return table


def _uncounted(planned: plan.Plan) -> list[str]:
  """Work of the program that the figures do not count, in lines."""
  cost = planned.cost
  if cost is None:
    return []
  lines = _narrow(planned.run.model)
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


def _say_uncounted(console: Console, lines: Sequence[str]) -> None:
  for line in lines:
    console.print(f'  Not in these figures: {line}.')


def _narrow(config: ModelConfig) -> list[str]:
  """The line on products in fewer bits; none if there are no such products."""
  if config.quantization == quantization.NONE:
    return []
  return [
    f'how much faster than bfloat16 a device multiplies {config.quantization} '
    '(model.quantization); utilisation is of the bfloat16 peak, and so is what '
    'is arithmetic on products and kernels'
  ]


def _or_dash(value: float | None, form: str) -> str:
  return '-' if value is None else form.format(value)
