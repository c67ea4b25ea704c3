r"""Lists every config key, or shows the config of a run without training it.

  python -m moejax.cli.config --list
  python -m moejax.cli.config --list=opt
  python -m moejax.cli.config --list=router.k --json
  python -m moejax.cli.config --config=configs/zoo.py:olmoe \
    --config.train.steps=300

--list shows each key with its default, its type and range, and its meaning;
--list=TEXT those whose path has TEXT in it. A key behind "with" is there only
with that choice: model.moe.router.k with model.moe.router=top_k.

With --config it shows the value of every key of that run, as its config.json
would have it, after the file, :tiny and the flags. It is checked like the
config of a run, and nothing is trained or packed. --changed shows only the keys
that differ from the defaults. A value is written as a flag takes it.
"""

import dataclasses
import json
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from moejax import config as configs
from moejax.config import listing
from moejax.core import command, config_tree, errors, exits, table

ALL = 'all'


def main(argv: Sequence[str]) -> None:
  """Reads the flags, and prints keys or values."""
  flags = command.parser(__doc__)
  add = flags.add_argument
  add('--list', nargs='?', const=ALL, metavar='TEXT', help='show keys')
  add('--config', help='path[:arg] of a config whose values are shown')
  add('--changed', action='store_true', help='only values that are no defaults')
  add('--json', action='store_true', help='print JSON')
  args, overrides = command.parse(flags, argv)
  if (args.list is None) == (args.config is None):
    raise errors.InputError('give --list or --config=FILE, one of the two')
  if args.list is not None:
    idle = [f'--config.{key}' for key, _ in overrides]
    idle += ['--changed'] if args.changed else []
    if idle:
      raise errors.InputError(f'{idle[0]} goes with --config, not with --list')
    _list(args.list, args.json)
    return
  run = configs.load(args.config, overrides)
  _show(run, args.changed, args.json)


def _list(text: str, as_json: bool) -> None:
  """Prints the keys whose path contains a text, or all."""
  keys = listing.keys()
  chosen = [key for key in keys if text in (ALL, *_ends(key.path, text))]
  if not chosen:
    raise table.unknown('config key', text, {key.path for key in keys})
  if as_json:
    print(json.dumps([dataclasses.asdict(key) for key in chosen], indent=2))
    return
  width = min(shutil.get_terminal_size().columns, 100)
  blocks = ['\n'.join(_lines(key, width)) for key in chosen]
  print('\n'.join(blocks))
  print(f'\n{len(chosen)} of {len(keys)} keys')


def _ends(path: str, text: str) -> tuple[str, ...]:
  """The text, if the path contains it."""
  return (text,) if text in path else ()


def _lines(key: listing.Key, width: int) -> list[str]:
  """A key as lines: path and default; type, range and condition; meaning."""
  default = shown(key.default)
  if key.type == 'parts':
    default = f'({default or "none"})'
  kind = f'{key.type}: {key.allowed}' if key.allowed else key.type
  if key.only_with:
    kind += f'; with {key.only_with}'
  below = [kind, *([key.meaning] if key.meaning else [])]
  return [
    f'{key.path}={default}',
    *(
      row
      for text in below
      for row in textwrap.wrap(
        text,
        width,
        initial_indent='    ',
        subsequent_indent='    ',
        break_long_words=False,
        break_on_hyphens=False,
      )
    ),
  ]


def _show(run: configs.Run, changed: bool, as_json: bool) -> None:
  """Prints the values of a run, by path."""
  values = config_tree.flatten(run)
  if changed:
    usual = config_tree.flatten(configs.Run())
    values = {
      key: value
      for key, value in values.items()
      if key not in usual or usual[key] != value
    }
  if as_json:
    print(json.dumps(values, indent=2))
    return
  for key, value in values.items():
    print(f'{key}={shown(value)}')


def shown(value: Any) -> str:
  """A value as the text of a flag.

  Example: None, True and [0.8, 0.9] are none, true and 0.8,0.9.
  """
  if value is None:
    return 'none'
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, list):
    return ','.join(map(shown, value))
  return str(value)


if __name__ == '__main__':
  exits.main(main, keeps=False)
