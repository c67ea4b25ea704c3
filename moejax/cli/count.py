"""Counts the parameters and FLOPs of a config's model, by arithmetic alone.

  moejax count --config=ds_2b
  moejax count --config=ds_2b --config.model.width=2048
  moejax count --config=ds_2b --json

It prints a table of the model's parts, and the FLOPs of training on a token.
"""

import json
from collections.abc import Sequence
from typing import Any

import rich.box
from rich.table import Table

from moejax import config
from moejax.core import command, exits
from moejax.core.console import Console
from moejax.plan import count, sight_count


def main(argv: Sequence[str]) -> None:
  """Prints the table, or the same as JSON."""
  flags = command.parser(__doc__)
  flags.add_argument('--config', required=True, help='path[:arg] of a config')
  flags.add_argument('--json', action='store_true', help='print JSON')
  args, overrides = command.parse(flags, argv)
  run = config.load(args.config, overrides)
  counted = count.count(run.model)
  length = run.data.sequence_length
  images = sight_count.of_run(run).flops(run.model)
  if args.json:
    print(json.dumps(_json(counted, length, images), indent=2))
  else:
    _show(counted, length, images)


def _json(counted: count.Count, length: int, images: float) -> dict[str, Any]:
  flops = counted.flops(length) + images
  total, active = counted.without_small
  return {
    'parts': {
      part: {'total': total, 'active': active}
      for part, total, active in counted.rows()
    },
    'total': counted.total,
    'active': counted.active,
    'without_routers_and_norms': {'total': total, 'active': active},
    'sequence_length': length,
    'flops_per_sequence': flops,
    'flops_of_images': images,
    'flops_per_token': flops / length,
    'training_bytes': counted.training_bytes,
  }


def _show(counted: count.Count, length: int, images: float) -> None:
  table = Table(box=rich.box.SIMPLE_HEAD, show_footer=True)
  table.add_column('part', 'all parts')
  for name, value in (('total', counted.total), ('active', counted.active)):
    table.add_column(f'{name} parameters', f'{value:,}', justify='right')
  for part, total, active in counted.rows():
    table.add_row(part, f'{total:,}', f'{active:,}')
  console = Console(highlight=False)
  console.print(table)
  flops = counted.flops(length) + images
  total, active = counted.without_small
  lines = {
    'parameters': f'{_short(counted.total)} total, '
    f'{_short(counted.active)} active',
    '  without routers and norms': f'{_short(total)} total, '
    f'{_short(active)} active',
    'training FLOPs per token': _short(flops / length),
    f'  per sequence of {length} tokens': _short(flops),
    **({'  of its images': _short(images)} if images else {}),
    'float32 parameters + AdamW': f'{counted.training_bytes / 2**30:.2f} GiB',
  }
  for name, text in lines.items():
    console.print(f'  {name:<34}{text}')


def _short(number: float) -> str:
  """1967403520 -> '1.967B'."""
  # From 0.1 B on in billions: the papers speak of models of 0.2 B.
  for least, unit, letter in (
    (1e12, 1e12, 'T'),
    (1e8, 1e9, 'B'),
    (1e5, 1e6, 'M'),
  ):
    if number >= least:
      return f'{number / unit:.3f}{letter}'
  return f'{number / 1e3:.3f}K'


if __name__ == '__main__':
  exits.main(main, keeps=False)
